"""Encoders that compute frozen features for a cache, with a key that says what the features depend on."""

from collections.abc import Callable

import torch
from torch import Tensor

from selfprompt.data.loading.feature_cache import Encoder
from selfprompt.utils.matmul import matmul_path


def active_autocast(device_type: str) -> torch.dtype | None:
    """Return the dtype of the enclosing autocast on a type of device; None outside autocast."""
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def make_encoder(encode: Callable[[Tensor], Tensor], weight: Tensor, *parts: str) -> Encoder:
    """Return an encoder that runs on the weight's device under the autocast that is active now.

    Args:
        encode: From pixels, (B, 3, H, W), on that device to features, (B, E).
        weight: A weight of the tower that computes the features.
        parts: What else the features depend on, for the key.
    """
    device_type = weight.device.type
    autocast = active_autocast(device_type)

    def run(pixels: Tensor) -> Tensor:
        with torch.autocast(device_type, autocast, autocast is not None):
            return encode(pixels.to(weight.device))

    precision = (weight.dtype, autocast, matmul_path(device_type), device_type)
    return Encoder(" ".join(map(str, (*parts, *precision))), run)
