"""What networks are made of: layers, attention, numbers and places as vectors, splines."""
