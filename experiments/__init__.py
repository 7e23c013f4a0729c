"""Experiments beyond the published protocols, one per module, run as ``python -m experiments.NAME``."""
