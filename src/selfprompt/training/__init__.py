"""Training: the loop, schedules, optimisers, weight averages, checkpoints and logs."""
