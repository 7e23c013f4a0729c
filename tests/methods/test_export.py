"""Export of every method to ONNX, for any number of images, and of class vectors where a method has some."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfprompt.data.loading.transforms import eval_transform
from selfprompt.exporting.network import Network, write_network
from selfprompt.methods import list_methods
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.assemble import vit_backbone
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.runtime.session import open_session
from tests.methods.tiny import NAMES, SMALL, small, traits
from tests.models.test_timm_eva import model_of
from tests.models.tiny import vit
from tests.models.tiny_texts import loaded

FEWER: dict[str, dict[str, Any]] = {"sep": {"layers": (1,)}}  # one fused block, to save time
APART = {"zero-shot", "coop", "kgcoop", "prograd", "tcp", "vpt-clip", "ivlp", "maple", "promptsrc", "mmrl", "sep"}
APART |= {"clip-lora", "clip-svd", "ln-tuning", "bitfit", "two-stage", "prolip", "clap", "ss-text", "skip-tuning"}
APART |= {"class-lora"}
"""Methods whose class vectors are an input of their model."""

TOWERS = ("ViT", "DINOv3", "PE-Spatial", "ROPE-ViT mixed", "EVA-02 enormous CLIP")


@pytest.mark.slow
@pytest.mark.parametrize("name", list_methods())
def test_predictions_are_exported_for_any_number_of_images(name: str, tmp_path: Path) -> None:
    method = prepared(name)
    assert method.compares_vectors == (name in APART)
    check(method, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOWERS)
def test_so_are_those_of_other_towers(kind: str, tmp_path: Path) -> None:
    backbone = vit_backbone("tiny", vit() if kind == "ViT" else model_of(kind))
    check(build_method("spt", backbone, ("cat", "dog"), prompts=2).eval(), tmp_path)


def test_so_are_those_of_image_sides_of_which_only_features_are_known(tmp_path: Path) -> None:
    check(build_method("linear", load_backbone("timm/test_convnext/random"), ("cat", "dog")).eval(), tmp_path)


def prepared(name: str) -> Method:
    """Return a method, prepared with a few images if it cannot predict without.

    It is on a tiny CLIP, or on a few layers with features if it does not look into the image side: exporting a tower
    takes seconds.
    """
    options = {**SMALL.get(name, {}), **FEWER.get(name, {})}
    found = traits(name, **options)
    if "image" not in found.edits:
        return small(name, "clip" if found.pooling == "unprojected" else "features", **options)
    return build_method(name, loaded("clip")[0], NAMES, seed=1, **options).eval()


def check(method: Method, folder: Path) -> None:
    """Export the method, and compare the logits of other numbers of images and, where it has vectors, of classes."""
    preprocess, size = method.backbone.preprocess, method.image_size[0]
    network, normalise = Network(method, preprocess).eval(), eval_transform(preprocess).normalise
    vectors = None if network.class_vectors is None else network.class_vectors.numpy()
    write_network(network, size, folder / "model.onnx", vectors_apart=True)
    session = open_session(folder / "model.onnx", size, classes=len(method.classes), vectors=vectors)
    for number, seed in ((5, 1), (1, 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (number, size, size, 3), np.uint8)
        with torch.no_grad():
            expected = method(normalise(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))).numpy()
        allowed = 1e-4 + 1e-5 * np.abs(expected).max()  # float32 in another order
        assert np.abs(session.logits(pixels) - expected).max() < allowed
        if vectors is not None:
            (fewer,) = session.run.run(None, {"images": pixels, "class_vectors": vectors[1:]})
            assert np.abs(fewer - expected[:, 1:]).max() < allowed
