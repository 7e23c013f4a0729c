"""Straightforward forwards, written from the papers' rules in plain torch or NumPy: to compare the library with."""
