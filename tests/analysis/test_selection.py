"""The selected tokens are those of SEP's prompter."""

import torch

from selfprompt.analysis.selection import selected_tokens
from selfprompt.prompts.fusion import Fuse, strongest_indices
from tests.analysis.tiny import seen
from tests.methods.tiny import small


@torch.no_grad()
def test_they_are_the_strongest_recorded_tokens() -> None:
    method = small("sep", layers=[1, 3])
    stream = seen(method, 3)
    found = selected_tokens(stream)
    assert list(found) == [1, 3]
    for index, places in found.items():
        before = stream.record.outputs[index - 1]  # what the prompter chose from
        assert torch.equal(places, strongest_indices(before, method.options.image_prompts))


@torch.no_grad()
def test_the_prompter_selects_the_same() -> None:
    for selection in ("image", "batch"):
        method = small("sep", selection=selection)
        stream = seen(method, 3)
        inner = stream.record.inner
        assert isinstance(inner, Fuse)
        for index, places in selected_tokens(stream, selection).items():
            taken = inner.select(stream.record.outputs[index - 1])
            others = stream.inputs[index].others()
            assert torch.equal(others.gather(1, places[..., None].expand_as(taken)), taken)


def test_other_methods_select_nothing() -> None:
    assert selected_tokens(seen(small("vpt", "mae"))) == {}
