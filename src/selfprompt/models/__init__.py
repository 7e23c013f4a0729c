"""Frozen backbones as token streams: an adapter for each upstream family, and the loading of backbones."""
