"""A ViT small enough to run a thousand times, with random weights that all have an effect."""

import torch
from torch import Tensor

from selfprompt.models.tower import VisionTower
from tests.independent.vit import Layout, draw_weights
from tests.parity.rebuild import vit_backbone

LAYOUT = Layout(depth=3, width=32, heads=2)  # 32 x 32 pixels, 16 patches


def tower(layout: Layout = LAYOUT) -> VisionTower:
    weights = {name: tensor.numpy() for name, tensor in draw_weights(layout, 1).items()}
    return vit_backbone(weights, layout.config, torch.float32).vision


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
