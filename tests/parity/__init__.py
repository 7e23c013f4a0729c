"""Compare this library with arrays recorded from other implementations: ``python -m tests.parity FILE...``."""
