"""Reports of comparisons, one line per quantity: its name, the differences, and whether they are within tolerance."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

FLOAT32 = 1e-5
FLOAT64 = 1e-9
LARGE = 2.0  # where the largest entry exceeds this, the difference may grow with it: other orders of summation


@dataclass(frozen=True)
class Quantity:
    """A comparison of one array."""

    name: str
    absolute: float
    relative: float
    passed: bool
    note: str = ""


@dataclass
class Report:
    """The comparisons of one file."""

    quantities: list[Quantity] = field(default_factory=list)

    def check(self, name: str, ours: Any, theirs: Any, tolerance: float = FLOAT32, relative: float = 0.0) -> None:
        """Compare two arrays.

        Args:
            name: Name of the quantity.
            ours: From this library.
            theirs: The recorded array.
            tolerance: Largest absolute difference of entries up to 2, and half of it as a fraction of the largest
                recorded entry where that exceeds 2; integers must be equal.
            relative: Alternatively, this fraction of the largest recorded entry.
        """
        ours, theirs = _array(ours), _array(theirs)
        if ours.shape != theirs.shape:
            self.quantities.append(
                Quantity(name, np.inf, np.inf, False, f"shape {ours.shape}, recorded {theirs.shape}")
            )
            return
        exact = theirs.dtype.kind in "iub"
        difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        error = float(difference.max(initial=0.0))
        size = float(np.abs(theirs.astype(np.float64)).max(initial=0.0))
        bound = 0.0 if exact else max(tolerance * max(1.0, size / LARGE), relative * size)
        self.quantities.append(Quantity(name, error, error / size if size else error, bool(error <= bound)))

    def require(self, name: str, value: float, bound: float) -> None:
        """Record a value that must not exceed a bound."""
        self.quantities.append(Quantity(name, value, value / bound, bool(value <= bound), f"at most {bound:g}"))

    def same(self, name: str, ours: object, theirs: object) -> None:
        """Compare two values that are not arrays, such as names."""
        equal = ours == theirs
        self.quantities.append(Quantity(name, 0.0 if equal else np.inf, 0.0 if equal else np.inf, equal))

    @property
    def passed(self) -> bool:
        """Whether there is at least one quantity and none failed."""
        return bool(self.quantities) and all(quantity.passed for quantity in self.quantities)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        return [
            f"{q.name:<58} {q.absolute:10.2e} {q.relative:10.2e}  {'ok' if q.passed else 'FAIL'}"
            + (f"  ({q.note})" if q.note else "")
            for q in self.quantities
        ]


class Arrays(Mapping[str, np.ndarray]):
    """A recorded file, with the arrays of sibling files where it refers to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            self._arrays = {name: arrays[name] for name in arrays.files}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return an array as a tensor; integers keep their type."""
        array = torch.from_numpy(np.array(self[name]))
        return array.to(dtype) if array.is_floating_point() else array

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays whose name starts with a prefix, under their names without it."""
        return {name.removeprefix(prefix): array for name, array in self.items() if name.startswith(prefix)}


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value)
