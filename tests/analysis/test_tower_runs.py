"""The runs that are looked at are the method's own, and looking changes nothing."""

import torch

from selfprompt.analysis.tower_runs import recorded_runs, run_with_prompts, run_without_prompts
from tests.analysis.tiny import seen
from tests.methods.tiny import images, small
from tests.models.tiny import assert_same


@torch.no_grad()
def test_looking_changes_no_result_and_leaves_no_trace() -> None:
    method = small("sep")
    before = method.logits(images(2))
    with recorded_runs(method.vision) as streams:
        assert_same(method.logits(images(2)), before)  # whoever looks on makes the last block compute all tokens
    assert [stream.prompted for stream in streams] == [False, True]  # frozen, prompted
    method.logits(images(2))
    assert len(streams) == 2


def test_prompts_that_enter_each_block_are_recorded() -> None:
    method = small("vpt", "mae")
    stream = seen(method)
    assert len(stream.inputs) == method.vision.depth
    for index, tokens in enumerate(stream.inputs):
        assert torch.equal(tokens.prompts, method.prompts[index].expand(2, -1, -1))
    assert stream.pooling == method.pooling


def test_a_method_without_image_prompts_has_no_stream() -> None:
    assert run_with_prompts(small("coop"), images(1)) is None
    assert run_with_prompts(small("linear", "mae"), images(1)) is None


@torch.no_grad()
def test_the_plain_run_has_no_prompts() -> None:
    tower = small("vpt", "mae").vision
    stream = run_without_prompts(tower, images(2))
    assert not stream.prompted
    assert torch.equal(stream.inputs[0].x, tower.enter(tower.embed(images(2))).x)
