"""VPT, SPT and GateVPT beyond the contract tests."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from selfprompt.methods.gatevpt import GateVPT
from selfprompt.methods.spt import SPT
from selfprompt.methods.vpt import VPT
from selfprompt.prompts.prototypes import prototypes
from selfprompt.prompts.static import Static
from tests.methods.tiny import Source, backbone, images, labelled, labelled_views, small


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def training_logits(method: torch.nn.Module, seed: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return method.train()(images(2)).detach()


@pytest.mark.parametrize("name", ["vpt", "gatevpt"])
def test_prompt_dropout_acts_in_training_only(name: str) -> None:
    method = small(name, "mae", dropout=0.5)
    assert not training_logits(method, 1).equal(training_logits(method, 2))
    assert method.eval()(images(2)).equal(method(images(2)))
    without = small(name, "mae", dropout=0.0)
    assert training_logits(without, 1).equal(without.eval()(images(2)))


@pytest.mark.parametrize("name", ["vpt", "gatevpt"])
def test_the_head_starts_as_if_every_class_were_rare(name: str) -> None:
    head = small(name, "mae", names=[f"class {i}" for i in range(500)]).head
    assert head.bias.eq(-math.log(99)).all()
    assert float(head.weight.detach().std()) == pytest.approx(math.sqrt(2 / 500), rel=0.02)  # fan-out


def test_spt_s_head_starts_small_without_a_bias() -> None:
    head = small("spt", "mae", names=[f"class {i}" for i in range(500)], head_std=0.01).head
    assert not head.bias.any()
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.02)


def test_projected_prompts_are_narrow_and_start_within_the_bound_of_their_width() -> None:
    method = small("vpt", "mae", project=8, prompts=50)
    assert isinstance(method, VPT)
    assert method.prompts.shape == (6, 50, 8)
    bound = math.sqrt(6 / (3 * 8 * 8 + 8))
    assert 0.95 * bound < float(method.prompts.detach().abs().max()) <= bound
    with torch.no_grad():
        wide = method.projection(method.prompts)
        expected = method.head(method.vision(images(2), Static(wide), pooling="avg"))
        assert method(images(2)).equal(expected)


@pytest.mark.parametrize(
    ("kind", "pooling", "expected"),
    [("mae", "auto", "avg"), ("clip", "auto", "native"), ("mae", "cls", "cls"), ("clip", "patches", "patches")],
)
@pytest.mark.parametrize("name", ["vpt", "spt", "gatevpt", "linear", "full"])
def test_pooling_follows_the_option_or_the_backbone(name: str, kind: str, pooling: str, expected: str) -> None:
    assert small(name, kind, pooling=pooling).pooling == expected


def test_different_poolings_give_different_features() -> None:
    scores = [small("spt", "mae", pooling=p)(images(1)).detach() for p in ("avg", "cls", "patches", "prompts")]
    for number, one in enumerate(scores):
        assert all((one - other).abs().max() > 1e-5 for other in scores[:number])


def test_vpt_can_reset_the_final_norm_as_released() -> None:
    plain, reset = small("vpt", "mae"), small("vpt", "mae", reset_norm=True)
    norm = plain.vision.vit.norm
    x = images(2)
    with torch.no_grad():
        standard = (plain.vision(x, Static(plain.prompts), pooling="avg") - norm.bias) / norm.weight
        assert (reset.eval()(x) - plain.head(standard)).abs().max() < 1e-5
        assert standard.mean(dim=1).abs().max() < 1e-4
        assert (standard.var(dim=1, unbiased=False) - 1).abs().max() < 1e-2
    with pytest.raises(ValueError, match="reset_norm needs a plain ViT with averaged features"):
        small("vpt", "clip", reset_norm=True)


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("start", ["random", "mean", "max", "kmeans"])
def test_spt_starts_as_prototypes_of_the_training_images(start: str, deep: bool) -> None:
    method, source = small("spt", "mae", start=start, deep=deep), Source(*labelled(5))
    assert isinstance(method, SPT)
    method.prepare(source, seeded(3))
    layers = 6 if deep else 1
    expected = prototypes(method.vision, source, 3, layers=layers, start=start, generator=seeded(3))  # type: ignore[arg-type]
    assert method.prompts.shape == (layers, 3, method.vision.width)
    assert method.prompts.equal(expected)
    assert method.prompts.requires_grad


def test_spt_s_options_reach_the_prototypes() -> None:
    def start(source: Source, **options: Any) -> Tensor:
        method = small("spt", "mae", **options)
        method.prepare(source, seeded(3))
        return method.prompts.detach()

    source = Source(*labelled(5))
    plain = start(source)
    assert start(source).equal(plain)
    source.requests.clear()
    start(source, images=1)
    assert len({image for image, _ in source.requests}) == 1
    positioned = start(source, layer0_position=True)
    assert not positioned[0].equal(plain[0])
    assert positioned[1:].equal(plain[1:])
    assert not start(source, released=True).equal(plain)


def test_spt_refuses_more_prompts_than_its_images_have_tokens() -> None:
    method = small("spt", "mae", prompts=70, deep=False, images=1)
    with pytest.raises(ValueError, match="70 prompts need as many tokens, got 64"):
        method.prepare(Source(*labelled(4)), seeded(1))


def gatevpt(temperature: float) -> GateVPT:
    method = small("gatevpt", "mae")
    assert isinstance(method, GateVPT)
    torch.nn.init.constant_(method.temperatures, temperature)
    return method


@pytest.mark.parametrize(("given", "kept"), [(50.0, 10.0), (-3.0, 0.01), (0.5, 0.5)])
def test_temperatures_act_clamped_and_training_clamps_them(given: float, kept: float) -> None:
    method, clamped = gatevpt(given), gatevpt(kept)
    assert method(images(2)).equal(clamped(images(2)))
    assert method.temperatures.eq(given).all()  # a prediction changes nothing
    method.loss(labelled_views(2)).backward()
    assert method.temperatures.eq(kept).all()
    assert method.temperatures.grad is not None
    assert method.temperatures.grad.abs().min() > 0  # the gradient passes the clamp


def test_gates_start_nearly_closed() -> None:
    method = small("gatevpt", "mae")
    assert isinstance(method, GateVPT)
    assert method.gates.shape == (5,)
    assert float(method.gates.detach().sigmoid()[0]) == pytest.approx(0.0067, abs=1e-4)


def test_with_closed_gates_and_patch_pooling_each_block_gets_the_initial_prompts() -> None:
    """GateVPT is then VPT-deep with the same prompts before every block."""
    gated, deep = (
        small("gatevpt", "mae", gate_start=200.0, pooling="patches"),
        small("vpt", "mae", prompts=5, pooling="patches"),
    )
    assert isinstance(gated, GateVPT)
    tensors = {"prompts": gated.prompts.detach().expand(6, -1, -1)}
    tensors |= {name: tensor for name, tensor in gated.adapter_state_dict().items() if name.startswith("head")}
    deep.load_adapter_state_dict(tensors)
    assert (gated(images(2)) - deep(images(2))).abs().max() < 1e-4


def test_gatevpt_needs_attention_that_takes_a_temperature() -> None:
    assert small("gatevpt", "clip")(images(1)).shape == (1, 4)
    assert backbone("clip").pooling == "native"
