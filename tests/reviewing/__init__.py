"""Tests of the review of photos."""
