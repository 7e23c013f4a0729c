"""Straightforward forwards, written from the papers' rules in plain torch: what the library is compared with."""
