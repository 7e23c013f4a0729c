"""Information between prompts and tokens: bounds, symmetries and the cases whose value is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from selfprompt.analysis.nmi import block_attention, information, projected_information, raw_attention, raw_information
from selfprompt.analysis.tower_runs import run_without_prompts
from selfprompt.models.tokens import Tokens
from tests.analysis.tiny import by_hand, seen
from tests.methods.tiny import images, small

shapes = st.tuples(st.integers(1, 6), st.integers(1, 8))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(prompts: int, tokens: int, seed: int, sharpness: float = 1.0) -> Tensor:
    return (sharpness * random(2, prompts, tokens, seed=seed)).softmax(dim=-1)


@given(shapes, st.integers(0, 1000), st.sampled_from([0.0, 0.1, 1.0, 10.0, 1000.0]))
def test_nmi_lies_between_0_and_1(shape: tuple[int, int], seed: int, sharpness: float) -> None:
    for dtype in (torch.float64, torch.float32):
        found = information(attention(*shape, seed, sharpness).to(dtype))
        assert found.mutual.shape == (2,)
        assert (found.mutual >= 0).all()
        for mean in ("geometric", "arithmetic"):
            value = found.normalised(mean)  # type: ignore[arg-type]
            assert value.isfinite().all()
            assert (value >= 0).all()
            assert (value <= 1).all()


@given(shapes, st.integers(0, 1000))
def test_information_is_that_of_the_joint_distribution(shape: tuple[int, int], seed: int) -> None:
    rows = attention(*shape, seed)
    joint = rows / shape[0]
    prompts, tokens = joint.sum(dim=2, keepdim=True), joint.sum(dim=1, keepdim=True)
    found = information(rows)
    expected = (joint * (joint / (prompts * tokens)).log()).sum(dim=(1, 2))
    assert (found.mutual - expected).abs().max() < 1e-12
    assert (found.prompts - math.log(shape[0])).abs().max() < 1e-12
    assert (found.tokens + (tokens * tokens.log()).sum(dim=(1, 2))).abs().max() < 1e-12
    assert (found.mutual <= torch.minimum(found.prompts, found.tokens) + 1e-12).all()


@given(shapes, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_prompts_and_tokens_does_not_matter(shape: tuple[int, int], seed: int, rng: object) -> None:
    rows = attention(*shape, seed)
    prompts, tokens = (torch.randperm(size, generator=torch.Generator().manual_seed(seed)) for size in shape)
    moved = rows[:, prompts][:, :, tokens]
    for mean in ("geometric", "arithmetic"):
        change = information(moved).normalised(mean) - information(rows).normalised(mean)  # type: ignore[arg-type]
        assert change.abs().max() < 1e-9


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_known_values(mean: str) -> None:
    def nmi(rows: Tensor) -> float:
        return float(information(rows).normalised(mean))  # type: ignore[arg-type]

    assert nmi(torch.eye(5)) == pytest.approx(1)
    assert nmi(torch.eye(9)[:5]) == pytest.approx(1)  # one token each, the others unused
    assert nmi(torch.full((5, 7), 1 / 7)) == pytest.approx(0, abs=1e-6)
    assert nmi(torch.eye(7)[:1].expand(5, -1)) == 0  # all look at one token
    assert nmi(attention(1, 7, 0)[0]) == 0  # one prompt
    assert nmi(torch.ones(4, 1)) == 0  # one token
    halves = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    expected = math.log(2) / {"geometric": math.sqrt(math.log(2) * math.log(4)), "arithmetic": math.log(8) / 2}[mean]
    assert nmi(halves) == pytest.approx(expected)


def test_rounding_never_exceeds_1() -> None:
    for size in range(2, 60):
        for dtype in (torch.float32, torch.float64):
            assert information(torch.eye(size, dtype=dtype)).normalised() <= 1


def test_prompts_that_copy_tokens_share_more_than_random_ones() -> None:
    tokens = 5 * random(3, 10, 16)
    copies, strangers = tokens[0, :4], 5 * random(4, 16, seed=9)
    own = information(raw_attention(copies, tokens[:1])).normalised()
    assert own > information(raw_attention(strangers, tokens[:1])).normalised()


def test_raw_attention_is_the_softmax_of_scaled_products() -> None:
    prompts, tokens = random(3, 16), random(2, 5, 16, seed=1)
    rows = raw_attention(prompts, tokens)
    assert rows.shape == (2, 3, 5)
    for image in range(2):
        for prompt in range(3):
            scores = torch.stack([(prompts[prompt] * token).sum() / 4 for token in tokens[image]])
            assert (rows[image, prompt] - scores.exp() / scores.exp().sum()).abs().max() < 1e-12


@pytest.mark.parametrize("bias", [True, False])
def test_block_attention_goes_through_norm_and_projections_of_each_head(bias: bool) -> None:
    prompts, tokens, heads = random(3, 12), random(2, 5, 12, seed=1), 3
    norm = nn.LayerNorm(12, dtype=torch.float64)
    qkv = nn.Linear(12, 36, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for number, parameter in enumerate((*norm.parameters(), *qkv.parameters())):
            parameter.copy_(random(*parameter.shape, seed=10 + number))
        rows = block_attention(prompts, tokens, norm, qkv, heads)
        assert rows.shape == (2, heads, 3, 5)
        for head in range(heads):
            channels = slice(4 * head, 4 * head + 4)
            q, k = qkv(norm(prompts))[:, :12][:, channels], qkv(norm(tokens))[..., 12:24][..., channels]
            assert (rows[:, head] - (q @ k.mT / 2).softmax(dim=-1)).abs().max() < 1e-12


def test_information_by_block_is_the_mean_over_images() -> None:
    x = 3 * random(2, 10, 16)
    prompted, plain = by_hand([Tokens(x, 1, 3)]), by_hand([Tokens(random(2, 7, 16, seed=4), 1)])
    own = [information(raw_attention(x[i, 1:4], plain.inputs[0].body[i])).normalised() for i in range(2)]
    assert raw_information(prompted, plain) == [pytest.approx(float(sum(own)) / 2)]


def test_projected_information_uses_the_attention_of_the_block() -> None:
    method = small("vpt", "mae")
    stream = seen(method)
    block, tokens = method.vision.vit.blocks[2], stream.inputs[2]
    rows = block_attention(method.prompts[2], tokens.body, block.norm1, block.attn.qkv, block.attn.num_heads)
    expected = float(information(rows.detach().double()).normalised().mean())
    assert projected_information(stream)[2] == pytest.approx(expected, abs=1e-6)


def test_prompts_that_are_patches_share_more_than_random_prompts() -> None:
    method = small("vpt", "mae", prompts=8)
    plain = run_without_prompts(method.vision, images(2))
    at_random = raw_information(seen(method), plain)
    with torch.no_grad():
        for index, tokens in enumerate(plain.inputs):
            method.prompts[index].copy_(tokens.body[0, :8])
    assert all(own > other for own, other in zip(raw_information(seen(method), plain), at_random, strict=True))
