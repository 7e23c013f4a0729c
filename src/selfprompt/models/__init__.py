"""Frozen backbones as token streams: one thin adapter per upstream family, and what loads them."""
