"""A file for each optimization."""
