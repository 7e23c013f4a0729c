"""The question that follows an unknown name in an error message."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str], show: Callable[[str], object] = repr) -> str:
    """Return `` Did you mean 'x'?`` for the known name closest to ``word``, or an empty string if none is close.

    Args:
        word: The unknown name.
        known: The names to choose from.
        show: Formats the suggested name; in quotes by default.
    """
    matches = get_close_matches(word, list(known), n=1)
    return f" Did you mean {show(matches[0])}?" if matches else ""
