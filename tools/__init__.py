"""What is run from a checkout and is not installed."""
