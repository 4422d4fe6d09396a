"""A file for each execution backend."""
