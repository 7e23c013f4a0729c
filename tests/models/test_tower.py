"""Contract of every tower: it stays frozen, and without prompts it is the backbone."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from selfprompt.models.open_clip_vit import clip_towers
from selfprompt.models.timm_eva import TimmEva
from selfprompt.models.timm_vit import TimmViT
from selfprompt.models.tower import Tower, VisionTower
from tests.models import test_openclip, test_timm_eva, test_timm_vit
from tests.models.tiny import Placeholders, Replace, assert_same, clip, eva, images, texts, vit

POOLINGS = ("native", "cls", "avg", "patches")


def _vision_towers() -> Iterator[VisionTower]:
    for options in test_timm_vit.VARIANTS.values():
        yield TimmViT(vit(**options))
    for options in test_openclip.VARIANTS.values():
        yield clip_towers(clip(**options))[0]


def _towers() -> list[tuple[Tower, Tensor]]:
    vision, text = clip_towers(clip())
    rotary = TimmEva(eva(**test_timm_eva.VARIANTS["DINOv3"]))
    return [
        (TimmViT(vit(drop_path_rate=0.5)), images()),
        (rotary, images(size=rotary.image_size)),
        (vision, images()),
        (text, texts()),
    ]


@torch.no_grad()
@pytest.mark.parametrize("pooling", POOLINGS)
def test_no_prompts_is_the_backbone_itself(pooling: str) -> None:
    compared = 0
    for tower in _vision_towers():
        x = images(size=tower.image_size)
        nothing = Replace(torch.zeros(tower.depth, 0, tower.width))
        if pooling == "cls" and not tower.class_token:
            continue
        if pooling != "native" and "attn_pool.query" in " ".join(tower.state_dict()):
            continue  # CLIP's attentional pooler has one pooling only
        expected = tower(x, pooling=pooling)
        assert_same(tower(x, nothing, pooling=pooling), expected)
        compared += 1
    assert compared > 30


def test_no_prompts_cannot_be_pooled() -> None:
    with pytest.raises(ValueError, match="needs prompts"):
        TimmViT(vit())(images(), pooling="prompts")


def test_unknown_pooling() -> None:
    with pytest.raises(ValueError, match=r"Unknown pooling 'mean'\. Known: native, .*, prompts, unprojected"):
        TimmViT(vit())(images(), pooling="mean")


def test_texts_share_a_prefix_only_where_they_are_causal() -> None:
    text = clip_towers(clip(text={"no_causal_mask": True}))[1]
    with pytest.raises(ValueError, match="causal"):
        text.shared_prefix(texts()[:1, :1])


@torch.no_grad()
@pytest.mark.parametrize("variant", ["CLIP", "QuickGELU", "custom block", "eos", "qk norm"])
@pytest.mark.parametrize("shared", [1, 3])
def test_a_prefix_that_texts_share_runs_once(variant: str, shared: int) -> None:
    text = clip_towers(clip(**test_openclip.VARIANTS[variant]))[1]
    ids = texts()
    ids[:, :shared] = ids[0, :shared]
    assert_same(text(ids, shared_prefix=text.shared_prefix(ids[:1, :shared])), text(ids))


@torch.no_grad()
def test_native_pooling_drops_prompts() -> None:
    tower = TimmViT(vit(global_pool="avg"))
    tokens = tower.embed(images())
    more = tokens.insert(torch.full((4, 48), 100.0))
    assert torch.equal(tower.pool(more, images()), tower.pool(tokens, images()))


@torch.no_grad()
def test_text_prompts_keep_their_positions() -> None:
    _, text = clip_towers(clip())
    words = text.token_embedding.weight[texts()[0, 1:4]]  # the words that stand there already
    ids = texts()[:1]
    assert_same(text(ids, Placeholders(words)), text(ids))


@pytest.mark.parametrize("index", range(4))
def test_stays_frozen(index: int) -> None:
    tower, inputs = _towers()[index]
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    shape = (tower.depth, 2, tower.width)
    prompts = torch.zeros(shape if index < 3 else shape[1:]).requires_grad_()
    tower.train()
    assert not any(module.training for module in tower.modules())
    prompter = Replace(prompts) if index < 3 else Placeholders(prompts)
    tower(inputs, prompter).square().sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert all(parameter.grad is None for parameter in tower.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


def test_a_copy_can_be_trained() -> None:
    tower = TimmViT(vit(drop_path_rate=0.5))
    tuned = copy.deepcopy(tower).requires_grad_(True)
    tuned.train()(images()).sum().backward()
    assert tuned.vit.patch_embed.proj.weight.grad is not None
    assert tower.vit.patch_embed.proj.weight.grad is None
    assert torch.equal(tuned(images()), tower(images()))


@pytest.mark.parametrize("index", range(4))
def test_an_image_depends_on_itself_only(index: int) -> None:
    tower, inputs = _towers()[index]
    with torch.no_grad():
        alone = torch.cat([tower(row[None]) for row in inputs])
        torch.testing.assert_close(tower(inputs), alone, atol=1e-5, rtol=1e-5)  # other matrix sizes round differently


@pytest.mark.slow
@pytest.mark.parametrize("index", range(4))
def test_exports_with_any_batch_size(index: int) -> None:
    tower, inputs = _towers()[index]
    inputs = inputs[[0, 1, 0]]  # three: a size that export does not treat as a constant by itself
    exported = torch.export.export(tower, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(inputs[:2]), tower(inputs[:2]), atol=1e-5, rtol=1e-5)
