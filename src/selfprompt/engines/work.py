"""What all engines have in common: how a worker does one item, and the error for work that is left undone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Start = Callable[[], Callable[[Item], Result]]
"""Called once in a worker, to load what its items share; returns the function that does one item. It can be pickled."""
Say = Callable[[str], None]


class EngineError(RuntimeError):
    """Raised if items are left undone.

    Attributes:
        items: Those that ended their worker each time; empty if the message says all.
    """

    def __init__(self, message: str, items: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.items = items


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """How one item ended in a worker; an error is sent as text, since it may not survive the way back.

    Attributes:
        value: The result; None if it failed.
        error: The message of the error that it raised; empty if it was done.
    """

    value: Result | None = None
    error: str = ""

    def result(self) -> Result:
        """Return the result.

        Raises:
            EngineError: If the item failed.
        """
        if self.error:
            raise EngineError(self.error)
        return self.value  # type: ignore[return-value]  # None only if the result is


def attempt(function: Callable[[], Result]) -> Outcome[Result]:
    """Call a function and return how it ended."""
    try:
        return Outcome(function())
    except Exception as error:  # whatever it is, the parent process must learn of it
        known = isinstance(error, (ValueError, TypeError, RuntimeError, OSError, ImportError)) and str(error)
        return Outcome(error=str(error) if known else f"{type(error).__name__}: {error}")
