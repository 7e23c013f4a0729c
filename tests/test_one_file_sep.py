"""The one-file SEP in ``examples/`` computes what the library does: features, loss, gradients and a whole training."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from examples import one_file_sep
from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.loading.loader import Batches, ImageStore
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.data.views import Views
from selfprompt.methods.registry import build_method
from selfprompt.methods.sep import SEP
from selfprompt.models.backbone import Backbone, Preprocess
from selfprompt.models.open_clip_vit import clip_towers
from selfprompt.recipes.recipe import load_recipe
from selfprompt.training.loop import fit
from tests.models import tiny

CLASSES = ("cat", "lawn mower", "stop sign")
CONTEXT, START, PLACEHOLDER, STOP, END = 24, 57, 3, 4, 59


class Letters:
    """A token a letter, apart from the placeholder X; as CLIP, with the largest id at the end and zeros behind."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            found = [START, *self.encode(text)[: CONTEXT - 2], END]
            row[: len(found)] = torch.tensor(found)
        return ids

    def encode(self, text: str) -> list[int]:
        letters = text.lower().replace(" ", "")
        return [PLACEHOLDER if c == "x" else STOP if c == "." else 5 + ord(c) % 50 for c in letters]


@pytest.fixture
def both() -> tuple[one_file_sep.SEP, SEP]:
    """Both implementations around one CLIP, with the same random trainable parameters."""
    clip = tiny.clip(quick_gelu=True, vision={"layers": 3}, text={"layers": 3, "context_length": CONTEXT})
    single = one_file_sep.SEP(clip, Letters(), CLASSES)
    vision, text = clip_towers(clip)
    scale, preprocess = float(clip.logit_scale.exp()), Preprocess(32, (0, 0, 0), (1, 1, 1))
    backbone = Backbone("tiny", vision, text, Letters(), scale, preprocess)
    ours = build_method("sep", backbone, CLASSES, seed=1)
    assert isinstance(ours, SEP)
    trainable = {name: p for name, p in single.named_parameters() if p.requires_grad}
    assert trainable.keys() == ours.trainable().keys()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            ours.trainable()[name].copy_(parameter)
    return single, ours


def data() -> tuple[Tensor, Tensor]:
    """Images and their labels."""
    return tiny.images(6), torch.arange(6) % len(CLASSES)


def close(found: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of sums in another order, relative to the largest entry."""
    scale = max(1.0, float(expected.detach().abs().max()))
    assert (found - expected).detach().abs().max() < 2e-5 * scale


def test_logits_loss_and_gradients_are_the_library_s(both: tuple[one_file_sep.SEP, SEP]) -> None:
    single, ours = both
    images, labels = data()
    single.start_prototypes(images, labels)
    with torch.no_grad():
        ours.prototypes.copy_(single.prototypes)
    close(single(images), ours(images))
    loss, terms = single.loss(images, labels), ours.loss(Views(images, labels=labels))
    close(loss, terms.total)
    loss.backward()
    terms.backward()
    theirs = ours.trainable()
    for name, parameter in single.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
            close(parameter.grad, theirs[name].grad)


def test_training_takes_the_steps_of_the_recipe(both: tuple[one_file_sep.SEP, SEP]) -> None:
    single, ours = both
    recipe = load_recipe("sep")
    settings = (recipe.train.epochs, recipe.train.batch_size, recipe.train.lr)
    assert settings == (one_file_sep.EPOCHS, one_file_sep.BATCH, one_file_sep.RATE)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    table = ImageTable("tiny", lambda index: pixels[index])
    items = [Item(IndexedSource(table, index), index % len(CLASSES)) for index in range(6)]
    transform = eval_transform(ours.backbone.preprocess)
    batches = Batches(items, ImageStore(), transform, 6, shuffle=False)
    fit(ours, batches, None, recipe.changed({"epochs": 3, "workers": 0}).train, progress=False)
    one_file_sep.train(single, [(views.pixels, views.labels) for views in batches.epoch(0)], epochs=3)
    assert ours.trainable().keys() == {name for name, p in single.named_parameters() if p.requires_grad}
    for name, parameter in ours.trainable().items():
        close(single.get_parameter(name), parameter)
