"""Image sides of which only features are known: ResNet, ConvNeXt, Swin, FastViT and whatever gives one vector."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from selfprompt.models.image_size import check_multiple
from selfprompt.models.tower import NoPrompts, Pooling, Prompter, VisionTower

CONVOLUTIONS = 32
"""Pixels of an image that become one of the last feature map of nearly all networks."""


class FeatureTower(VisionTower):
    """Any network from images to one vector each, as a tower without blocks: its features, and nothing inside.

    It stays in eval mode, so batch normalisation uses the statistics of the pretraining.

    Args:
        network: (B, 3, H, W) -> (B, E); frozen in place.
        image_size: Height and width of its images, in pixels.

    Raises:
        TypeError: If it gives something else than one vector per image.
        ValueError: If it does not take images of this size.
    """

    has_blocks = False

    def __init__(self, network: nn.Module, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.image_size = image_size
        self.depth = self.width = self.prefix = 0
        self.class_token = False
        self.freeze()
        self.features = self.unprojected_features = self._measure()

    def forward(
        self,
        inputs: Tensor,
        prompter: Prompter | None = None,
        *,
        pooling: Pooling = "native",
        shared_prefix: Sequence[Tensor] = (),
    ) -> Tensor:
        """Encode images, (B, 3, H, W) -> (B, E).

        Raises:
            TypeError: If there is a prompter.
            ValueError: For any other pooling than "native".
        """
        if not (prompter is None or isinstance(prompter, NoPrompts)):
            raise TypeError(
                f"Prompts cannot enter {type(self.network).__name__}, of which only the features are known; "
                "use a method that reads features, or a ViT."
            )
        self.check_pooling(pooling)
        features: Tensor = self.network(inputs)
        return features

    def set_image_size(self, size: int) -> str:
        """Take images of another size; networks of convolutions alone take any multiple of 32."""
        if (size, size) == self.image_size:
            return ""
        pixels, probed = self.image_size[0], -(-size // CONVOLUTIONS) * CONVOLUTIONS
        self.image_size = (probed, probed)
        try:
            self._measure()
        except ValueError as error:
            raise ValueError(
                f"image_size must be {pixels}, as {type(self.network).__name__} takes no other images, got {size}; "
                "leave it out, or use a ViT or a ConvNeXt."
            ) from error
        check_multiple(size, CONVOLUTIONS, "the step of networks of convolutions")
        return ""

    def check_pooling(self, pooling: Pooling) -> None:
        """Raise ValueError for any other pooling than "native"."""
        if pooling != "native":
            raise ValueError(
                f"Only the final features of {type(self.network).__name__} are known, the pooling native, got "
                f"{pooling!r}; use a method that reads these (ridge, linear, tip-adapter), or a ViT."
            )

    def facts(self) -> dict[str, object]:
        """Return the architecture as JSON values; ``layers`` is a hash over what the weights do not show."""
        return {
            "family": "features",
            "class": type(self.network).__name__,
            "image_size": list(self.image_size),
            "features": self.features,
            "layers": hashlib.sha256("\n".join(map(_layer, self.network.modules())).encode()).hexdigest(),
        }

    def _measure(self) -> int:
        """Return the size of the features, of an image of zeros."""
        kind, weight = type(self.network).__name__, next(self.network.parameters())
        try:
            with torch.inference_mode():
                features = self.network(weight.new_zeros(1, 3, *self.image_size))
        except (RuntimeError, AssertionError) as error:
            size = " x ".join(map(str, self.image_size))
            raise ValueError(f"{kind} does not take images of {size} pixels; leave image_size out.") from error
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise TypeError(f"{kind} is not supported: it gives something else than one vector per image.")
        return features.shape[1]


def _layer(layer: nn.Module) -> str:
    """Return the kind of a layer, and of PyTorch's own the settings: strides, epsilons, approximations."""
    settings = layer.extra_repr() if type(layer).extra_repr.__module__.startswith("torch.nn.") else ""
    return f"{type(layer).__name__}({settings})"
