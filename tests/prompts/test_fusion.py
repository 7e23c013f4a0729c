"""SEP's edit: the formula of the module, what it attends to, and the selection of representative tokens."""

import pytest
import torch
from torch import Tensor, nn

from selfprompt.models.tokens import Tokens
from selfprompt.prompts.fusion import (
    Fuse,
    LowRank,
    LowRankAttention,
    TokenFusion,
    attention_heads,
    by_layer,
    fusion_modules,
    strongest_indices,
    strongest_tokens,
)
from tests.independent import sep
from tests.prompts.tiny import random, seeded

THEIRS = {
    "attention": "promt_attention_visual",
    "norm_attention": "ln_pa_1_visual",
    "norm_mlp": "ln_pa_2_visual",
    "down": "mlp_pa_visual.c_fc1",
    "up": "mlp_pa_visual.c_proj",
    "keep_tokens": "scale1",
    "keep_attention": "scale2",
}


def fusion(width: int = 128, axis: str = "tokens", seed: int = 1) -> TokenFusion:
    """A module in which every parameter has an effect."""
    module = TokenFusion(width, axis=axis, generator=seeded(seed))  # type: ignore[arg-type]
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter += 0.1 * random(*parameter.shape, seed=number)
    return module


@pytest.mark.parametrize("axis", ["tokens", "batch"])
def test_fusion_follows_the_published_formula(axis: str) -> None:
    module = fusion(axis=axis)
    weights = {}
    for name, parameter in module.named_parameters():
        first, _, rest = name.partition(".")
        weights[f"m.{THEIRS[first]}{'.' if rest else ''}{rest}"] = parameter
    tokens, prompts = random(5, 3, 128, seed=2), random(5, 3, 128, seed=3)
    expected = sep.fuse(tokens, prompts, weights, "m", axis)
    assert (module(tokens, prompts) - expected).abs().max() < 1e-5


def test_fusion_over_tokens_treats_each_input_by_itself() -> None:
    module = fusion()
    tokens, prompts = random(4, 3, 128, seed=2), random(4, 3, 128, seed=3)
    whole = module(tokens, prompts)
    alone = torch.cat([module(t[None], p[None]) for t, p in zip(tokens, prompts, strict=True)])
    assert (whole - alone).abs().max() < 1e-5


def test_fusion_over_the_batch_mixes_inputs_slot_by_slot() -> None:
    module = fusion(axis="batch")
    tokens, prompts = random(4, 3, 128, seed=2), random(4, 3, 128, seed=3)
    moved = tokens.clone()
    moved[0, 1] = random(128, seed=4)
    change = (module(moved, prompts) - module(tokens, prompts)).abs().amax(dim=-1)
    assert (change[:, 1] > 1e-6).all()  # every input, in that slot
    assert change[:, [0, 2]].max() == 0


def test_one_input_over_the_batch_attends_to_itself_alone() -> None:
    module = fusion(axis="batch")
    tokens = random(1, 3, 128, seed=2)
    once, other = module(tokens, random(1, 3, 128, seed=3)), module(tokens, random(1, 3, 128, seed=4))
    assert (once - other).abs().max() < 1e-6  # the prompts are queries only


def test_with_both_scalars_1_the_representative_tokens_pass_unchanged() -> None:
    module = fusion()
    nn.init.ones_(module.keep_tokens)
    nn.init.ones_(module.keep_attention)
    tokens = random(2, 3, 128, seed=2)
    assert module(tokens, random(2, 3, 128)).equal(tokens)


def test_the_start_is_the_published_one_and_comes_from_the_generator() -> None:
    width = 192
    module = TokenFusion(width, generator=seeded(1))
    bounds = {
        "attention.in_proj_weight": (6 / (4 * width)) ** 0.5,
        "attention.out_proj.weight": width**-0.5,
        "down.weight": width**-0.5,
        "up.weight": 256**-0.5,
    }
    for name, parameter in module.named_parameters():
        if name in bounds:
            assert 0.98 * bounds[name] < float(parameter.detach().abs().max()) <= bounds[name]
        else:
            value = 0.75 if name.startswith("keep") else 1.0 if name.endswith("weight") else 0.0
            assert parameter.eq(value).all(), name
    torch.manual_seed(5)
    again, other = TokenFusion(width, generator=seeded(1)), TokenFusion(width, generator=seeded(2))
    for name, parameter in module.state_dict().items():
        assert again.state_dict()[name].equal(parameter)
        assert name not in bounds or not other.state_dict()[name].equal(parameter)
    assert sum(p.numel() for p in module.parameters()) == 4 * width**2 + 520 * width + 2


def test_heads_have_64_channels() -> None:
    assert [attention_heads(width) for width in (32, 64, 192, 512, 768, 1024)] == [1, 1, 3, 8, 12, 16]


def factor(layer: LowRank, matrix: Tensor, bias: Tensor | None = None) -> None:
    """Write a matrix as its product with the identity, on the side where that fits the rank."""
    rank, inputs = layer.first.weight.shape
    first, second = (torch.eye(rank), matrix) if inputs == rank else (matrix, torch.eye(rank))
    layer.first.weight.copy_(first)
    layer.second.weight.copy_(second)
    if bias is not None:
        layer.second.bias.copy_(bias)


@pytest.mark.parametrize("axis", ["tokens", "batch"])
@torch.no_grad()
def test_low_rank_modules_of_full_rank_are_the_full_ones(axis: str) -> None:
    width = 128
    full = fusion(width, axis)
    low = TokenFusion(width, axis=axis, rank=width)  # type: ignore[arg-type]
    ours, theirs = low.attention, full.attention
    assert isinstance(ours, LowRankAttention)
    assert isinstance(theirs, nn.MultiheadAttention)
    stacked = zip(theirs.in_proj_weight.split(width), theirs.in_proj_bias.split(width), strict=True)
    for layer, (matrix, bias) in zip((ours.query, ours.key, ours.value), stacked, strict=True):
        factor(layer, matrix, bias)
    factor(ours.out_proj, theirs.out_proj.weight, theirs.out_proj.bias)
    factor(low.down, full.down.weight)  # type: ignore[arg-type]
    factor(low.up, full.up.weight)  # type: ignore[arg-type]
    rest = {name: t for name, t in full.state_dict().items() if name in low.state_dict()}
    assert len(rest) == 6  # norms and scalars
    low.load_state_dict(rest, strict=False)
    tokens, prompts = random(5, 3, width, seed=2), random(5, 3, width, seed=3)
    assert (low(tokens, prompts) - full(tokens, prompts)).abs().max() < 1e-5


@pytest.mark.parametrize("rank", [1, 16, 64])
@torch.no_grad()
def test_low_rank_matrices_start_as_large_as_full_ones(rank: int) -> None:
    width = 128
    low, full = TokenFusion(width, rank=rank, generator=seeded(1)), TokenFusion(width, generator=seeded(1))
    assert isinstance(low.attention, LowRankAttention)
    assert isinstance(full.attention, nn.MultiheadAttention)
    pairs = {
        low.attention.key: full.attention.in_proj_weight,
        low.attention.out_proj: full.attention.out_proj.weight,
        low.down: full.down.weight,
        low.up: full.up.weight,
    }
    for layer, matrix in pairs.items():
        assert isinstance(layer, LowRank)
        product = layer.second.weight @ layer.first.weight
        assert product.shape in (matrix.shape, (width, width))
        assert torch.linalg.matrix_rank(product) == rank
        assert 0.7 < product.std() / matrix.std() < 1.4  # so few numbers vary
    assert sum(p.numel() for p in low.parameters()) == 10 * width * rank + 512 * rank + 8 * width + 2
    again = TokenFusion(width, rank=rank, generator=seeded(1)).state_dict()
    assert all(tensor.equal(again[name]) for name, tensor in low.state_dict().items())


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fusion_rank must be 0 \(full matrices\) to 64, the width .*; got 65\."):
        TokenFusion(64, rank=65)


def test_each_block_has_a_module_or_shares_one() -> None:
    own = fusion_modules(64, 3, generator=seeded(1))
    assert by_layer((1, 4, 5), own) == {1: own[0], 4: own[1], 5: own[2]}
    shared = fusion_modules(64, 3, shared=True, generator=seeded(1))
    assert by_layer((1, 4, 5), shared) == dict.fromkeys((1, 4, 5), shared[0])
    assert shared[0].down.weight.equal(own[2].down.weight)
    assert len(fusion_modules(64, 0, shared=True)) == 0


def stream(*powers: list[float], prompts: int = 2) -> Tokens:
    """A stream of one channel with CLS and strong prompts; each list is one image."""
    x = torch.tensor(powers).sqrt()[..., None]
    return Tokens(x, prefix=1).insert(torch.full((prompts, 1), 99.0))


def test_strongest_tokens_come_in_descending_order_without_prompts_and_with_cls() -> None:
    tokens = stream([5.0, 1.0, 9.0, 4.0], [0.0, 3.0, 2.0, 8.0])
    assert strongest_indices(tokens, 2).tolist() == [[2, 0], [3, 1]]
    assert strongest_indices(tokens, 3, "batch").tolist() == [3, 2, 0]  # means 2.5, 2.0, 5.5, 6.0
    assert strongest_tokens(tokens, 2).square()[..., 0].tolist() == [
        [pytest.approx(9), pytest.approx(5)],
        [pytest.approx(8), pytest.approx(3)],
    ]
    by_batch = strongest_tokens(tokens, 1, "batch").square()[:, 0, 0]
    assert by_batch.tolist() == [pytest.approx(4), pytest.approx(8)]


def test_more_prompts_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="5 image prompts need as many representative tokens, an image has 4"):
        strongest_indices(stream([5.0, 1.0, 9.0, 4.0]), 5)


@pytest.mark.parametrize("selection", ["image", "batch"])
def test_gradients_flow_through_the_selected_tokens_only(selection: str) -> None:
    tokens = stream([5.0, 1.0, 9.0, 4.0], [0.0, 3.0, 2.0, 8.0])
    x = tokens.x.clone().requires_grad_()
    strongest_tokens(tokens._replace(x=x), 2, selection).sum().backward()  # type: ignore[arg-type]
    assert x.grad is not None
    assert x.grad.sum() == 4
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}
    assert x.grad[:, 1:3].sum() == 0  # the prompts


def doubled(tokens: Tokens) -> Tokens:
    return tokens._replace(x=2 * tokens.x)


@pytest.mark.parametrize("in_place", [False, True])
def test_prompts_are_inserted_once_and_refreshed_before_some_blocks(in_place: bool) -> None:
    body, prompts, module = random(2, 7, 64), random(3, 64, seed=1), fusion(64)
    start = Tokens(body, prefix=1)
    fuse = Fuse(prompts, {1: module}, lambda tokens: tokens.body[:, :3], in_place)
    entered = fuse.start(start)
    assert entered.prompts.equal(prompts.expand(2, -1, -1))
    assert entered.others().equal(body[:, [0, 4, 5, 6]] if in_place else body)
    assert fuse.layer(0, doubled, entered).x.equal(2 * entered.x)
    after = fuse.layer(1, doubled, entered)
    expected: Tensor = 2 * module(entered.body[:, :3], entered.prompts)
    assert after.prompts.equal(expected)
    assert after.others().equal(2 * entered.others())
