"""From a file to a valid Study, and from a Study to the networks' canvas and back."""
