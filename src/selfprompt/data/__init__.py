"""From the user's images to batches: finding and checking them, splits and shots, transforms, the loader.

A user's folder is enough (`sources.read_dataset`); every choice made on the way is a sentence in
`Dataset.notes`. Knows nothing of towers or methods, and prints nothing: progress goes to a callback.
"""
