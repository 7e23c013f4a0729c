"""Exports a classifier for use without torch: ONNX, a page for browsers, a repository for Triton."""
