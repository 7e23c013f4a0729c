"""From image files to batches of pixels and frozen features."""
