"""The bottom of the house: types and contracts; NumPy and the standard library only."""
