"""Plain CoOp: every step encodes the texts of all classes with all their padding."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perf.plain_clip import PlainCLIP, unit


class PlainCoOp(nn.Module):
    """CoOp on the plain CLIP.

    Args:
        clip: Frozen.
        classes: Class names.
        context: The context, (M, D); it is copied.
    """

    def __init__(self, clip: PlainCLIP, classes: Sequence[str], context: Tensor) -> None:
        super().__init__()
        self.clip = clip
        self.context = nn.Parameter(context.detach().clone())
        texts = [" ".join(["X"] * len(context)) + f" {name}." for name in classes]
        embedded, self.ends = clip.tokens(texts)
        self.prefix = embedded[:, :1]
        self.suffix = embedded[:, 1 + len(context) :]

    def text_features(self, rows: slice = slice(None)) -> Tensor:
        """Return unit features of the classes, (C, E), or of some rows to check many classes in chunks."""
        prefix, suffix = self.prefix[rows], self.suffix[rows]
        x = torch.cat([prefix, self.context.expand(len(prefix), -1, -1), suffix], dim=1)
        return unit(self.clip.text(x, self.ends[rows]))

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits, (B, C)."""
        with torch.no_grad():
            features = unit(self.clip.visual(images))
        return self.clip.scale * features @ self.text_features().t()

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, a scalar, and the logits."""
        logits = self.logits(images)
        return F.cross_entropy(logits, labels), logits
