"""A file for each measure of quality."""
