"""A file for each model architecture."""
