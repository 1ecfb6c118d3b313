"""Beyond one scan on one machine: batches, image archives, the model hub."""
