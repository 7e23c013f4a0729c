"""Many items of work, done by processes, by jobs of Slurm or by actors of Ray; knows no images and no models."""
