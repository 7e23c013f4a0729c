"""Fixed edits: the positions of prompts, when they are replaced, and how they start."""

import math
from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock

from selfprompt.models.open_clip_vit import clip_towers
from selfprompt.models.timm_vit import TimmViT
from selfprompt.models.tokens import Tokens
from selfprompt.prompts.record import Record
from selfprompt.prompts.static import Scatter, Static, uniform_prompts
from tests.methods.tiny import backbone
from tests.models.tiny import assert_same, clip, vit
from tests.prompts.tiny import LAYOUT, random, seeded, tower


class Within(Static):
    """The same prompts as part of the stream in every block, as the papers describe it."""

    needs_all_outputs = True

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        return block(tokens.replace(self._for_batch(index, tokens)) if 0 < index < len(self.prompts) else tokens)


def halved(tokens: Tokens) -> Tokens:
    return tokens._replace(x=tokens.x / 2)


def test_shallow_prompts_flow_through_the_blocks() -> None:
    prompter = Static(random(1, 3, 4))
    tokens = prompter.start(Tokens(random(2, 6, 4, seed=1), prefix=2))
    assert tokens.prompts.equal(prompter.prompts.expand(2, -1, -1))
    for index in range(3):
        tokens = prompter.layer(index, halved, tokens)
    assert tokens.prompts.equal(prompter.prompts.expand(2, -1, -1) / 8)


def test_deep_prompts_replace_the_outputs_of_the_block_before() -> None:
    prompter, record = Static(random(3, 2, 32)), Record()
    record.inner = prompter
    tower()(random(2, 3, 32, 32, seed=1), record)
    for index, entering in enumerate(record.inputs):
        assert entering.prompts.equal(prompter.prompts[index].expand(2, -1, -1))
        if index:
            assert entering.others().equal(record.outputs[index - 1].others())


def test_on_a_clip_the_first_prompts_pass_its_first_norm_and_the_others_do_not() -> None:
    vision, record = backbone("clip").vision, Record(Static(random(6, 2, 128)))
    with torch.no_grad():
        vision(random(1, 3, 64, 64), record)
        normed = vision.enter(Tokens(random(6, 2, 128)[:1], prefix=0)).x
    assert (record.inputs[0].prompts - normed).abs().max() < 1e-5
    assert record.inputs[1].prompts.equal(random(6, 2, 128)[1:2])


def test_prompts_in_place_replace_the_placeholders() -> None:
    x = random(2, 6, 4, seed=1)
    tokens = Static(random(1, 3, 4), in_place=True).start(Tokens(x, prefix=1))
    assert tokens.x.shape == x.shape
    assert tokens.prompts.equal(random(1, 3, 4).expand(2, -1, -1))
    assert tokens.others().equal(x[:, [0, 4, 5]])


def test_dropout_is_drawn_for_each_image() -> None:
    prompter = Static(torch.ones(2, 50, 20), dropout=0.25)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = prompter.start(Tokens(random(2, 3, 20), prefix=1))
        first = tokens.prompts
        second = prompter.layer(1, lambda stream: stream, tokens.drop()).prompts
    for prompts in (first, second):
        assert prompts.unique().tolist() == [0.0, pytest.approx(4 / 3)]
        assert 0.2 < float((prompts == 0).float().mean()) < 0.3
        assert not prompts[0].equal(prompts[1])
    assert not first.equal(second)


@pytest.mark.parametrize("per_class", [False, True])
def test_scattered_prompts_overwrite_their_slots_and_nothing_else(per_class: bool) -> None:
    x, slots = random(2, 6, 4), torch.tensor([[1, 2, 4], [2, 3, 5]])
    prompts = random(2, 3, 4, seed=1) if per_class else random(3, 4, seed=1)
    scatter = Scatter(prompts, slots)
    tokens = scatter.start(Tokens(x, prefix=1))
    for row in range(2):
        own = prompts[row] if per_class else prompts
        assert tokens.x[row, slots[row]].equal(own)
        rest = [position for position in range(6) if position not in slots[row].tolist()]
        assert tokens.x[row, rest].equal(x[row, rest])
    assert tokens.count == 0
    assert scatter.layer(3, halved, tokens).x.equal(tokens.x / 2)


def test_vpt_starts_uniformly_within_its_bound() -> None:
    bound = math.sqrt(6 / (3 * 16 * 16 + 768))
    prompts = uniform_prompts(12, 10, 768, (16, 16), seeded(1)).detach()
    assert prompts.shape == (12, 10, 768)
    assert bound == pytest.approx(0.0625)
    assert 0.999 * bound < float(prompts.abs().max()) <= bound
    assert float(prompts.std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert uniform_prompts(12, 10, 768, (16, 16), seeded(1)).equal(prompts)
    assert not uniform_prompts(12, 10, 768, (16, 16), seeded(2)).equal(prompts)


def test_a_record_changes_nothing() -> None:
    vision, images = tower(), random(2, 3, 32, 32)
    prompter = Static(random(LAYOUT.depth, 2, LAYOUT.width, seed=1))
    record = Record(prompter)
    assert_same(vision(images, record), vision(images, prompter))
    assert_same(vision(images, Record()), vision(images))
    assert len(record.inputs) == len(record.outputs) == LAYOUT.depth
    assert [stream.count for stream in record.outputs] == [2] * LAYOUT.depth


@pytest.mark.parametrize("pooling", ["native", "cls", "avg", "patches", "prompts"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["timm", "clip", "parallel"])
def test_deep_prompts_as_extra_kv_equal_prompts_in_the_stream(kind: str, dropout: float, pooling: str) -> None:
    kinds = {"timm": {}, "parallel": {"block_fn": ParallelScalingBlock}}
    vision = clip_towers(clip())[0] if kind == "clip" else TimmViT(vit(**kinds[kind]))
    prompts = random(vision.depth, 3, vision.width).requires_grad_()
    found = {}
    for prompter in (Static(prompts, dropout=dropout), Within(prompts, dropout=dropout)):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            features = vision(random(2, 3, 32, 32), prompter, pooling=pooling)
        found[type(prompter)] = (features, *torch.autograd.grad(features.square().sum(), prompts))
    assert_same(found[Static][0], found[Within][0])
    torch.testing.assert_close(found[Static][1], found[Within][1], atol=1e-4, rtol=1e-4)  # gradients up to 30


def test_fewer_prompts_than_blocks_flow_on() -> None:
    vision = TimmViT(vit(depth=4))
    prompts, images = random(2, 3, vision.width), random(2, 3, 32, 32)
    assert_same(vision(images, Static(prompts)), vision(images, Within(prompts)))
    record = Record(Static(prompts))
    vision(images, record)
    assert [stream.count for stream in record.inputs] == [3] * 4
    assert record.inputs[3].prompts.equal(record.outputs[2].prompts)


@torch.no_grad()
@pytest.mark.parametrize("deep", [True, False])
def test_prompts_that_enter_before_a_later_block(deep: bool) -> None:
    vision, images = tower(), random(2, 3, 32, 32, seed=1)
    prompts = random(2 if deep else 1, 3, 32)
    tokens = vision.enter(vision.embed(images))
    tokens = vision.block(0, tokens)
    tokens = vision.block(1, tokens.insert(prompts[0]))
    tokens = vision.block(2, tokens.replace(prompts[1]) if deep else tokens)
    assert_same(vision(images, Static(prompts, first=1)), vision.pool(tokens, images))
    record = Record(Static(prompts, first=1))
    vision(images, record)
    assert [stream.count for stream in record.inputs] == [0, 3, 3]
