"""The sections of a report: each is given the material and returns its figures and tables."""
