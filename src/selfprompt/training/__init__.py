"""Training: one readable loop, its schedules, optimisers, averages, checkpoints and logs."""
