"""Finding, reading and building the backbone that a name stands for."""
