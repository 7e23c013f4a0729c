"""The type of callbacks that receive the progress of a long step."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total)."""
