"""No training step reads values from the device, for which a GPU would have to finish all earlier work.

On the device "meta" tensors have no values, so that every read of one raises, as it would wait elsewhere.
"""

import copy

import pytest
import torch

from selfprompt.data.views import Views
from selfprompt.methods import list_methods
from selfprompt.models.text_encoding import MIN_BUCKET
from selfprompt.training.meter import Meter
from tests.methods.tiny import small, traits

NAMES = tuple(f"{'very ' * (index % 7)}thing {index}" for index in range(2 * MIN_BUCKET + 5))
"""Enough names, of several lengths, for more than one bucket of texts."""
EXCEPTIONS = {
    "promptsrc": "PyTorch has no autocast on the device meta",
    "skip-tuning": "it encodes the texts of the classes that the step does not skip",
    "two-stage": "it asks once a step which stage it is in",
}
TRAINED = [
    name
    for name in list_methods()
    if not traits(name).closed_form and name not in ("tip-adapter", "zero-shot", *EXCEPTIONS)
]


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_waits_for_nothing(name: str) -> None:
    method = copy.deepcopy(small(name, "clip" if traits(name).needs_text else "mae", NAMES)).train().to("meta")
    with torch.device("meta"):
        pixels, features = torch.empty(4, 3, *method.image_size), torch.empty(4, method.feature_size)
        labels = torch.zeros(4, dtype=torch.long)
    views = Views(pixels, features if traits(name).inputs != "pixels" else None, labels, torch.arange(4))
    terms = method.loss(views)
    terms.total.backward()
    Meter(torch.device("meta")).add(terms, terms.total, labels, 4)


def test_a_read_would_be_found() -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        torch.zeros(3, device="meta").tolist()
