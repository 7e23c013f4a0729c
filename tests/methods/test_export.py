"""Export of every method with torch.export, for any number of images."""

from typing import Any

import pytest
import torch

from selfprompt.methods import list_methods
from tests.methods.tiny import images, small, traits

FEWER: dict[str, dict[str, Any]] = {"sep": {"layers": (1,)}}  # one fused block in each tower, to save time
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((name, "clip", FEWER.get(name, {})) for name in list_methods()),
    *((name, "mae", {}) for name in ("gatevpt", "spt") if not traits(name).needs_text),
    ("sep", "clip", {"layers": (1, 3), "fusion": "shared", "fusion_rank": 8}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "options"), CASES)
def test_predictions_are_exported_for_any_number_of_images(name: str, kind: str, options: dict[str, Any]) -> None:
    method = small(name, kind, **options)
    with torch.no_grad():
        count = torch.export.Dim("images", min=1, max=1024)
        program = torch.export.export(method, (images(2),), dynamic_shapes=({0: count},))
        exported = program.module()
        for pictures in (images(2, seed=1), images(5, seed=2), images(1, seed=3)):
            difference = (exported(pictures) - method(pictures)).abs().max()
            assert difference < 1e-5 * max(1.0, method.backbone.scale)  # float32 in another order
