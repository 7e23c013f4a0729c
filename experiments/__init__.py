"""Questions of our own that no published protocol asks; each module is one, run as ``python -m experiments.NAME``."""
