"""The library measured by itself: plain baselines with equal results, timing, memory, arithmetic, and a table."""
