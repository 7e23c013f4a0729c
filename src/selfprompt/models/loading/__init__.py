"""Loading backbones by name."""
