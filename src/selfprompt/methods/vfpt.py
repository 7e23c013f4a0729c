"""VFPT: VPT with some prompts in the frequency domain."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from selfprompt.methods.vpt import VPT, VPTOptions


@dataclass(frozen=True)
class VFPTOptions(VPTOptions):
    """Options of VFPT."""

    fourier: float = 0.5
    """Fraction of the prompts of a block that are transformed, 0 to 1; the paper selects it for each data set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fourier <= 1:
            raise ValueError(f"fourier must be in [0, 1], got {self.fourier}.")


class VFPT(VPT):
    """VPT whose first m prompts of a block, X, become ``Re FFT2(X)``, the transform over prompts and channels.

    The transform is not normalised: it multiplies the spread of the prompts by about sqrt(m D / 2). Written with
    matrices of cosines and sines, ``C_m X C_D - S_m X S_D``, it runs in every precision and exports.

    Source: Zeng et al. 2024 (arXiv 2411.01327, NeurIPS 2024), section 3.2; implemented from the paper alone.
    """

    Options = VFPTOptions
    options: VFPTOptions
    over_prompts: Tensor
    over_channels: Tensor

    def build(self, generator: Generator) -> None:
        super().build(generator)
        self.transformed = round(self.options.fourier * self.options.prompts)
        for name, size in (("over_prompts", self.transformed), ("over_channels", self.vision.width)):
            self.register_buffer(name, waves(size).to(self.prompts.device), persistent=False)

    def block_prompts(self) -> Tensor:
        prompts = super().block_prompts()
        first, others = prompts[:, : self.transformed], prompts[:, self.transformed :]
        (cos_m, sin_m), (cos_d, sin_d) = self.over_prompts, self.over_channels
        return torch.cat([cos_m @ first @ cos_d - sin_m @ first @ sin_d, others], dim=1)


def waves(size: int) -> Tensor:
    """Return the cosines and sines of the discrete Fourier transform of a size, (2, size, size), float32."""
    steps = torch.arange(size)
    angles = 2 * math.pi / max(size, 1) * (steps[:, None] * steps % max(size, 1)).double()
    return torch.stack([angles.cos(), angles.sin()]).float()
