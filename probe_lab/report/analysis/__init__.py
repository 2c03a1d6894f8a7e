"""What a report computes of the results before anything is drawn."""
