"""An HTTP server around a saved classifier: it bounds what it takes in, and batches images across requests."""
