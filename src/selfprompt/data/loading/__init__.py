"""From image files to batches of pixels and of frozen features."""
