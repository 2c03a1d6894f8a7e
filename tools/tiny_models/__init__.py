"""Training of the shipped weights of the shapes world, and their model cards."""
