"""Speed and memory of the library, measured against plain baselines with equal results."""
