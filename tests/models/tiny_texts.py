"""Tiny CLIPs with the text sides and vocabularies of other families, and their texts encoded by the libraries' modules.

These are open_clip's, and PyTorch's encoder layers for the text sides of Hugging Face's kinds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CustomTextCLIP
from torch import Tensor, nn

from selfprompt.models.backbone import Backbone, Tokenizer
from selfprompt.models.hf_text import EncoderConfig, HfTextModel, sinusoids
from selfprompt.models.loading import assemble
from selfprompt.models.loading.bpe import BytePairTokenizer, clip_merges
from selfprompt.models.loading.hf_encoders import build_clip
from selfprompt.models.loading.json_tokenizer import json_tokenizer
from tests.models import tiny, vocabularies

CONTEXT = 64
Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """How a family reads texts: open_clip's configuration of the text side, tokenizer, Hugging Face's encoder."""

    text: dict[str, Any]
    vocabulary: Callable[[Path], Path] | None = None  # None: CLIP's
    options: dict[str, Any] | None = None
    encoder: EncoderConfig | None = None

    def tokenizer(self) -> Tokenizer:
        if self.vocabulary is None:
            return BytePairTokenizer(clip_merges(8192 - 2 * 256 - 2), CONTEXT)
        with TemporaryDirectory() as folder:
            path = self.vocabulary(Path(folder) / "tokenizer.json")
            return json_tokenizer(path, CONTEXT, **(self.options or {}))


SIGLIP = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
SIGLIP_TOKENIZER = {"clean": "canonicalize", "kind": "siglip"}
BERT = EncoderConfig("bert", 120, 64, 3, 2, 64, 96, CONTEXT, 2, 1e-12, "gelu", pad=0)
NLLB = EncoderConfig("m2m_100", 120, 64, 3, 2, 64, 96, 0, 0, 1e-5, "relu", pad=1)
FAMILIES = {
    "clip": Family({"vocab_size": 8192}),
    "mobileclip": Family({"vocab_size": 8192, "no_causal_mask": True}),
    "coca": Family({"vocab_size": 8192, "embed_cls": True, "output_tokens": True}),
    "siglip": Family(SIGLIP, vocabularies.t5, SIGLIP_TOKENIZER),
    "siglip2": Family({**SIGLIP, "act_kwargs": {"approximate": "tanh"}}, vocabularies.gemma, SIGLIP_TOKENIZER),
    "clipa": Family({"no_causal_mask": True, "pool_type": "last"}, vocabularies.wordpiece, {"kind": "clipa"}),
    "metaclip2": Family({"pool_type": "eos", "eos_id": 2}, vocabularies.xlm),
    "metaclip2-mt5": Family({"pool_type": "eos", "eos_id": 1}, vocabularies.t5, {"clean": "canonicalize"}),
    "bert": Family({"hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}, vocabularies.wordpiece, encoder=BERT),
    "nllb": Family({"hf_proj_type": "mlp", "hf_pooler_type": "cls_pooler"}, vocabularies.xlm, encoder=NLLB),
}
_PARTS = {  # blocks; then in the order of PyTorch's names: q, k, v, out, both layers of the MLP, both norms
    "bert": (
        "encoder.layer",
        *(f"attention.self.{part}" for part in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense", "attention.output.LayerNorm"),
        "output.LayerNorm",
    ),
    "m2m_100": (
        "layers",
        *(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")),
        *("fc1", "fc2", "self_attn_layer_norm", "final_layer_norm"),
    ),
}


@cache
def loaded(family: str) -> tuple[Backbone, CustomTextCLIP | CoCa]:
    """Return a backbone of a family, and the open_clip model that it shares weights with."""
    kind = FAMILIES[family]
    text = {"context_length": CONTEXT, "vocab_size": 120, "layers": 3, **kind.text}
    if family == "coca":
        model = tiny.coca(text)
    elif kind.encoder is None:
        model = tiny.clip(custom=True, bias="siglip" in family, vision={"layers": 3}, text=text)
    else:
        vision = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8}
        text = {"context_length": CONTEXT, **kind.text}
        model = build_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, kind.encoder)
        tiny.shake(model)
        model.requires_grad_(False).eval()
    assert isinstance(model, (CustomTextCLIP, CoCa))
    return assemble.clip_backbone(f"tiny-{family}", model, kind.tokenizer(), images={}), model


@torch.no_grad()
def upstream(model: CustomTextCLIP | CoCa, ids: Tensor, slots: Tensor, prompts: Tensor, *edits: Edit | None) -> Tensor:
    """Encode texts with open_clip alone.

    Args:
        model: The model, whose vocabulary is restored.
        ids: Token ids, (C, context).
        slots: Positions of the prompts, (C, P).
        prompts: (P, D); they are written into rows of the vocabulary that the texts do not use.
        edits: Change the stream, (C, L, D), in front of the blocks from the second on.
    """
    hf = isinstance(model.text, HfTextModel)
    words: Any = model.text.transformer.get_submodule(_words(model.text)) if hf else model.text.token_embedding
    table, used = words.weight, set(ids.unique().tolist())
    rows = [number for number in range(3, len(table) - 2) if number not in used][: len(prompts)]
    kept = table.detach().clone()
    table[rows] = prompts.to(table.dtype) / _scale(model.text)
    ids = ids.scatter(1, slots, torch.tensor(rows, dtype=torch.long).expand(len(ids), -1))
    handles = [
        block.register_forward_pre_hook(lambda _, inputs, edit=edit: (edit(inputs[0]), *inputs[1:]))
        for block, edit in zip([] if hf else model.text.transformer.resblocks[1:], edits, strict=False)
        if edit is not None
    ]
    try:
        return _encode(model.text, ids, edits) if hf else model.encode_text(ids)
    finally:
        table.copy_(kept)
        for handle in handles:
            handle.remove()


def _words(text: HfTextModel) -> str:
    return "embeddings.word_embeddings" if text.config.kind == "bert" else "embed_tokens"


def _scale(text: nn.Module) -> float:
    """Return by how much words are multiplied before prompts take their place."""
    return math.sqrt(text.config.width) if isinstance(text, HfTextModel) and text.config.kind == "m2m_100" else 1.0


def _encode(text: HfTextModel, ids: Tensor, edits: Sequence[Edit | None]) -> Tensor:
    """Encode texts with PyTorch's encoder layers."""
    config, part = text.config, text.transformer.get_submodule
    read, bert = ids != config.pad, config.kind == "bert"
    x = part(_words(text))(ids) * _scale(text)
    if bert:
        places = [part(f"embeddings.{name}_embeddings").weight for name in ("position", "token_type")]
        x = part("embeddings.LayerNorm")(x + places[0][: ids.shape[1]] + places[1][0])
    else:
        x = x + sinusoids(ids.shape[1] + 2, config.width, config.pad)[read.cumsum(dim=1) * read + config.pad]
    for index, edit in enumerate([None, *edits, *[None] * config.depth][: config.depth]):
        x = _layer(text, index)(x if edit is None else edit(x), src_key_padding_mask=~read)
    weights = read[..., None].float()
    return text.proj((x * weights).sum(1) / weights.sum(1) if bert else part("layer_norm")(x[:, 0]))


def _layer(text: HfTextModel, index: int) -> nn.TransformerEncoderLayer:
    config, (blocks, *names) = text.config, _PARTS[text.config.kind]
    bert = config.kind == "bert"
    layer = nn.TransformerEncoderLayer(
        config.width,
        config.heads,
        config.hidden,
        dropout=0.0,
        activation="gelu" if bert else "relu",
        layer_norm_eps=config.eps,
        batch_first=True,
        norm_first=not bert,
    )
    parts = [text.transformer.get_submodule(f"{blocks}.{index}.{name}") for name in names]
    for kind in ("weight", "bias"):
        q, k, v, *others = (getattr(one, kind) for one in parts)
        getattr(layer.self_attn, f"in_proj_{kind}").data = torch.cat([q, k, v])
        theirs = (layer.self_attn.out_proj, layer.linear1, layer.linear2, layer.norm1, layer.norm2)
        for mine, other in zip(theirs, others, strict=True):
            getattr(mine, kind).data = other
    return layer  # without dropout, training does not differ, and takes no faster and coarser path


def replaced(x: Tensor, start: int, prompts: Tensor) -> Tensor:
    """Return a stream with prompts, (P, D) or (C, P, D), from position ``start`` on."""
    return torch.cat([x[:, :start], prompts.expand(len(x), -1, -1), x[:, start + prompts.shape[-2] :]], dim=1)


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
