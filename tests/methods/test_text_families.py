"""Methods that read class texts, on the text sides of other families; prompts equal open_clip's own encoding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.inference.classifier import Classifier
from selfprompt.inference.loading import load
from selfprompt.methods.base import Method
from selfprompt.methods.class_texts import PromptedText, add_prompts, tokenize
from selfprompt.methods.heads import unit
from selfprompt.methods.registry import build_method
from tests.methods.tiny import SMALL, Source, traits
from tests.models.tiny import assert_same, images
from tests.models.tiny_texts import FAMILIES, frozen, loaded, replaced, upstream

NAMES = ("cat", "Great-White dog", "x", "a photo of cat")
every = pytest.mark.parametrize("family", FAMILIES)
READERS = ("coop", "kgcoop", "prograd", "cocoop", "sep", "ivlp", "maple", "promptsrc", "tcp", "mmrl", "vpt-clip")
READERS += ("zero-shot", "ln-tuning", "tip-adapter", "clap", "ss-text", "gda")
LABELS = torch.arange(8) % len(NAMES)


def built(name: str, family: str, **options: Any) -> Method:
    """Build a method with random parameters, prepared with a few images if it needs them."""
    method = build_method(name, loaded(family)[0], NAMES, seed=1, **{**SMALL.get(name, {}), **options})
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    if method.traits.variable_length or method.traits.closed_form:
        method.prepare(Source(images(8), LABELS), torch.Generator())
    return method.eval()


def expected(family: str, texts: list[PromptedText], prompts: Tensor, *edits: Any) -> Tensor:
    """Encode class texts with prompts by open_clip, to unit features."""
    backbone, model = loaded(family)
    ids, slots = tokenize(backbone, texts)
    return unit(upstream(model, ids, slots, prompts.detach(), *edits))


def encoded(method: Method) -> Tensor:
    with torch.no_grad():
        return method.encode_classes()


@every
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_coop(family: str, position: str) -> None:
    method = built("coop", family, class_token_position=position)
    assert_same(encoded(method), expected(family, add_prompts(NAMES, 4, position), method.context))


@every
def test_deep_prompts_replace_those_of_the_block_before(family: str) -> None:
    start = loaded(family)[0].text_side()[0].layout.start
    for name, option in (("ivlp", {"text_prompts": 2}), ("maple", {"prompts": 2})):
        method = built(name, family, init_text="", depth=2, **option)
        edits = [lambda x, prompts=prompts: replaced(x, start, prompts) for prompts in method.text_prompts[1:]]
        assert_same(encoded(method), expected(family, add_prompts(NAMES, 2), method.text_prompts[0], *edits))


@every
@pytest.mark.parametrize("layers", [(2,), ()], ids=["one", "all"])
def test_sep(family: str, layers: tuple[int, ...]) -> None:
    method = built("sep", family, text_prompts=3, layers=layers)
    start = method.text.layout.start

    def fused(x: Tensor, index: int) -> Tensor:
        fusion = method.text_fusions[method.text_layers.index(index)]
        return replaced(x, start, fusion(x[:, start + 3 : start + 6], x[:, start : start + 3]))

    edits = [(lambda x, index=index: fused(x, index)) if index in method.text_layers else None for index in (1, 2)]
    prompted = expected(family, add_prompts(NAMES, 3), method.text_prompts, *edits)
    assert_same(encoded(method), unit(prompted + method.frozen_texts))


@every
def test_sep_reads_no_padding_with_valid_tokens(family: str) -> None:
    method = built("sep", family, text_prompts=3, layers=(1,), text_tokens="valid")
    start, ends = method.text.layout.start, method.text.layout.ends(tokenize(method.backbone, add_prompts(NAMES, 3))[0])
    rows = (start + 3 + torch.arange(3)).minimum(ends[:, None])

    def fused(x: Tensor) -> Tensor:
        read = x[torch.arange(len(x))[:, None], rows]
        return replaced(x, start, method.text_fusions[0](read, x[:, start : start + 3]))

    prompted = expected(family, add_prompts(NAMES, 3), method.text_prompts, fused)
    assert_same(encoded(method), unit(prompted + method.frozen_texts))
    assert rows[0, -1] == ends[0]


@every
def test_tcp(family: str) -> None:
    method = built("tcp", family, prompts=2, layer=1)
    start = method.text.layout.start
    texts = [PromptedText((2, f"of a {name}.")) for name in NAMES]
    edit = lambda x: replaced(x, start, method.class_tokens().detach())  # noqa: E731
    assert_same(encoded(method), expected(family, texts, method.context, edit))


@every
def test_cocoop(family: str) -> None:
    method = built("cocoop", family, init_text="", prompts=2)
    features = unit(torch.randn(1, 16, generator=torch.Generator().manual_seed(4)))
    with torch.no_grad():
        found = method.encode_classes_for(features)[0]
        context = method.image_contexts(features)[0]
    assert_same(found, expected(family, add_prompts(NAMES, 2), context))


@pytest.mark.parametrize("family", ["mobileclip", "siglip", "siglip2", "clipa"])
def test_mmrl_where_all_tokens_see_all(family: str) -> None:
    """Tokens in front of the text are then as good as tokens behind its start."""
    method, (backbone, model) = built("mmrl", family), loaded(family)
    ids, _ = tokenize(backbone, [f"a photo of a {name}." for name in NAMES])
    position = method.text.layout.read_positions(ids)
    maps = method.text_maps(method.tokens).detach()

    def before(x: Tensor, index: int) -> Tensor:
        return torch.cat([maps[index].expand(len(x), -1, -1), x[:, -ids.shape[1] :]], dim=1)

    with torch.no_grad():
        x = model.text.token_embedding(ids) + model.text.positional_embedding
        for number, block in enumerate(model.text.transformer.resblocks):
            x = block(before(x, number - 1) if number else x)
        pooled = model.text.ln_final(x[torch.arange(len(x)), 2 + position])
        projection = model.text.text_projection
        wanted = projection(pooled) if callable(projection) else pooled @ projection
    assert_same(encoded(method), unit(wanted))


@pytest.mark.parametrize("family", ["siglip2", "clipa", "coca", "metaclip2", "metaclip2-mt5", "bert", "nllb"])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_of_texts_trains_and_takes_new_names(family: str, name: str) -> None:
    backbone, model = loaded(family)
    if (family, name) == ("coca", "mmrl"):
        with pytest.raises(ValueError, match="attentional pooler has only the pooling 'native'; use another backbone"):
            built(name, family)
        return
    before, method = frozen(model), built(name, family)
    views = Views(images(8), labels=LABELS)
    if method.trainable():
        losses = []
        optimizer = torch.optim.SGD(method.trainable().values(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            terms = method.train().loss(views)
            terms.total.backward()
            optimizer.step()
            losses.append(float(terms.total.detach()))
        assert losses[-1] < losses[0]
    assert all(tensor.equal(before[key]) for key, tensor in model.state_dict().items())
    assert method.eval()(views.pixels).isfinite().all()
    if traits(name).open_vocabulary:
        other = Classifier(method, backbone.preprocess).with_classes(["dog", "cat", "photo of x"])
        found, kept = (one(views.pixels) for one in (other.method, method))
        assert found.shape == (8, 3)
        assert not found[:, 0].allclose(kept[:, 0])


@pytest.mark.parametrize("family", ["siglip2", "metaclip2", "bert"])
def test_an_artifact_comes_back(family: str, tmp_path: Path) -> None:
    backbone = loaded(family)[0]
    method = built("sep", family, text_prompts=2)
    Classifier(method, backbone.preprocess).save(tmp_path / "saved")
    again = load(tmp_path / "saved", backbone=backbone)
    assert again.method(images(3)).equal(method(images(3)))
