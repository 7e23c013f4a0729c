"""Sentences on images that can be read but look wrong: one for each kind, with the names of the first few."""

from collections import Counter
from collections.abc import Iterable

from selfprompt.utils.wording import plural

NAMED = 20  # images that a sentence names


class Remarks:
    """Counts what is odd about images, as `rgb.remarks` says of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, image: str, remarks: Iterable[str]) -> None:
        """Count one image."""
        for remark in remarks:
            self._counts[remark] += 1
            names = self._names.setdefault(remark, [])
            if len(names) < NAMED:
                names.append(image)

    def sentences(self) -> list[str]:
        """Like ``2 images are of one colour throughout: a.png, b.png.``"""
        return [self._sentence(remark, count) for remark, count in self._counts.items()]

    def _sentence(self, remark: str, count: int) -> str:
        names = self._names[remark]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        return f"{plural(count, 'image')} {'is' if count == 1 else 'are'} {remark}: {', '.join(names)}{more}."
