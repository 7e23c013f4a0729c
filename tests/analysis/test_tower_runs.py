"""Recorded runs equal those of the method, and recording changes nothing."""

import torch

from selfprompt.analysis.tower_runs import recorded_runs, run_with_prompts, run_without_prompts
from tests.analysis.tiny import seen
from tests.methods.tiny import images, small
from tests.models.tiny import assert_same


@torch.no_grad()
def test_recording_changes_no_result_and_leaves_no_hook() -> None:
    method = small("sep")
    before = method(images(2))
    with recorded_runs(method.vision) as runs:
        assert_same(method(images(2)), before)  # when recording, the last block computes all tokens
    assert [run.prompted for run in runs] == [False, True]  # frozen, prompted
    method(images(2))
    assert len(runs) == 2


def test_the_prompts_of_each_block_are_recorded() -> None:
    method = small("vpt", "mae")
    run = seen(method)
    assert len(run.inputs) == method.vision.depth
    for index, tokens in enumerate(run.inputs):
        assert torch.equal(tokens.prompts, method.prompts[index].expand(2, -1, -1))
    assert run.pooling == method.pooling


def test_a_method_without_image_prompts_has_no_run() -> None:
    assert run_with_prompts(small("coop"), images(1)) is None
    assert run_with_prompts(small("linear", "mae"), images(1)) is None


@torch.no_grad()
def test_a_run_without_prompts_has_none() -> None:
    tower = small("vpt", "mae").vision
    run = run_without_prompts(tower, images(2))
    assert not run.prompted
    assert torch.equal(run.inputs[0].x, tower.enter(tower.embed(images(2))).x)
