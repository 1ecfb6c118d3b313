"""What people use beside the ensemble: masks from points and boxes, heat maps, generated pictures."""
