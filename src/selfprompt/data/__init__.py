"""Reads images and serves them in batches: readers, few-shot draws, published suites, transforms and the loader.

The user's folder is enough (`readers.read.read_dataset`); `Dataset.notes` lists every decision made on the way. Knows
no models or methods, and prints nothing: progress goes to a callback.
"""
