"""Remarks on images that can be read but look wrong; each remark becomes one sentence with the first few images."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from PIL import Image

from selfprompt.data.loading.rgb import BIT_DEPTH
from selfprompt.utils.wording import plural

MAX_NAMED = 20  # images named in a sentence


def remarks_on(image: Image.Image) -> tuple[str, ...]:
    """Return what looks wrong about an RGB image from `rgb.to_rgb`, each worded to follow "2 images are"."""
    remarks = []
    if depth := image.info.get(BIT_DEPTH):
        remarks.append(f"read as {depth}-bit values, as none is above {2**depth - 1}")
    if _is_flat(image.resize((16, 16), Image.Resampling.NEAREST)) and _is_flat(image):  # the first is cheap
        remarks.append("of one colour throughout")
    return tuple(remarks)


def _is_flat(image: Image.Image) -> bool:
    """Return whether the values of each channel differ by at most one."""
    extremes: Any = image.getextrema()  # PIL's type includes that of one channel
    return all(high - low <= 1 for low, high in extremes)


class RemarkCounter:
    """Counts the remarks of many images and keeps the names of the first few."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, image: str, remarks: Iterable[str]) -> None:
        """Count the remarks of one image."""
        for remark in remarks:
            self._counts[remark] += 1
            names = self._names.setdefault(remark, [])
            if len(names) < MAX_NAMED:
                names.append(image)

    def update(self, other: "RemarkCounter") -> None:
        """Add what another one has counted."""
        self._counts.update(other._counts)
        for remark, more in other._names.items():
            names = self._names.setdefault(remark, [])
            names += more[: MAX_NAMED - len(names)]

    def sentences(self) -> list[str]:
        """Return a sentence for each remark: ``2 images are of one colour throughout: a.png, b.png.``"""
        return [self._sentence(remark, count) for remark, count in self._counts.items()]

    def _sentence(self, remark: str, count: int) -> str:
        names = self._names[remark]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        return f"{plural(count, 'image')} {'is' if count == 1 else 'are'} {remark}: {', '.join(names)}{more}."
