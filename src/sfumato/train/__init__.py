"""Training: one loop for every model, its optimiser, average, log, and the run that puts them to work."""
