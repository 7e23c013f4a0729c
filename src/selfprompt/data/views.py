"""A batch of images as methods take it: pixels, frozen features, labels and indices in one record."""

from collections.abc import Callable

import torch
from torch import Tensor


class Views:
    """One view each of B images. The loader fills it, and a method reads what its traits ask for.

    Args:
        pixels: Normalised images, (B, 3, H, W); None if only features are needed.
        features: Features from the frozen vision tower, not normalised, (B, E); None if they are not known yet.
        labels: Class indices, (B,), int64; -1 for every image if None.
        indices: Positions of the images in their data set, (B,), int64; 0 to B - 1 if None.

    Raises:
        ValueError: If there are neither pixels, features nor labels.
    """

    def __init__(
        self,
        pixels: Tensor | None = None,
        features: Tensor | None = None,
        labels: Tensor | None = None,
        indices: Tensor | None = None,
    ) -> None:
        first = next((tensor for tensor in (labels, pixels, features) if tensor is not None), None)
        if first is None:
            raise ValueError("Views need pixels, features or labels.")
        self._pixels = pixels
        self.features = features
        self.labels = torch.full((first.shape[0],), -1) if labels is None else labels
        self.indices = torch.arange(first.shape[0]) if indices is None else indices

    def __len__(self) -> int:
        """Number of images, B."""
        return len(self.labels)

    @property
    def pixels(self) -> Tensor:
        """Normalised images, (B, 3, H, W).

        Raises:
            RuntimeError: If the views hold features only.
        """
        if self._pixels is None:
            raise RuntimeError("These views hold no pixels: a method that reads them has traits with inputs='both'.")
        return self._pixels

    def with_features(self, features: Tensor) -> "Views":
        """Return the same views with these features, (B, E)."""
        return Views(self._pixels, features, self.labels, self.indices)

    def to(self, device: torch.device | str) -> "Views":
        """Return the views on another device."""
        if torch.device(device).type != "cuda":  # copies to other devices that do not wait may race with their use
            return self._each(lambda tensor: tensor.to(device))
        return self._each(
            lambda tensor: (tensor.pin_memory() if tensor.is_cpu else tensor).to(device, non_blocking=True)
        )

    def chunk(self, count: int) -> list["Views"]:
        """Split into at most ``count`` parts of nearly equal size, in order."""
        size = -(-len(self) // count) or 1
        starts = range(0, len(self), size) or [0]
        return [self.rows(start, start + size) for start in starts]

    def rows(self, start: int, stop: int) -> "Views":
        """Return the images from ``start`` up to ``stop``."""
        return self._each(lambda tensor: tensor[start:stop])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Views":
        tensors = (self._pixels, self.features, self.labels, self.indices)
        return Views(*(None if tensor is None else change(tensor) for tensor in tensors))
