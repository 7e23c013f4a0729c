"""Tiny CLIPs with the text sides and vocabularies of other families, on open_clip's own modules."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from open_clip.model import CustomTextCLIP
from torch import Tensor, nn

from selfprompt.models.backbone import Backbone, Tokenizer
from selfprompt.models.loading import assemble
from selfprompt.models.loading.bpe import BytePairTokenizer, clip_merges
from selfprompt.models.loading.json_tokenizer import json_tokenizer
from tests.models import tiny, vocabularies

CONTEXT = 64
Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """How a family reads texts: open_clip's configuration of the text side, and the tokenizer."""

    text: dict[str, Any]
    vocabulary: Callable[[Path], Path] | None = None  # None: CLIP's
    options: dict[str, Any] | None = None

    def tokenizer(self) -> Tokenizer:
        if self.vocabulary is None:
            return BytePairTokenizer(clip_merges(8192 - 2 * 256 - 2), CONTEXT)
        with TemporaryDirectory() as folder:
            path = self.vocabulary(Path(folder) / "tokenizer.json")
            return json_tokenizer(path, CONTEXT, **(self.options or {}))


SIGLIP = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
SIGLIP_TOKENIZER = {"clean": "canonicalize", "kind": "siglip"}
FAMILIES = {
    "clip": Family({"vocab_size": 8192}),
    "mobileclip": Family({"vocab_size": 8192, "no_causal_mask": True}),
    "siglip": Family(SIGLIP, vocabularies.t5, SIGLIP_TOKENIZER),
    "siglip2": Family({**SIGLIP, "act_kwargs": {"approximate": "tanh"}}, vocabularies.gemma, SIGLIP_TOKENIZER),
    "clipa": Family({"no_causal_mask": True, "pool_type": "last"}, vocabularies.wordpiece, {"kind": "clipa"}),
    "metaclip2": Family({"pool_type": "eos", "eos_id": 2}, vocabularies.xlm),
    "metaclip2-mt5": Family({"pool_type": "eos", "eos_id": 1}, vocabularies.t5, {"clean": "canonicalize"}),
}


@cache
def loaded(family: str) -> tuple[Backbone, CustomTextCLIP]:
    """Return a backbone of a family, and the open_clip model that it shares weights with."""
    kind = FAMILIES[family]
    text = {"context_length": CONTEXT, "vocab_size": 120, "layers": 3, **kind.text}
    model = tiny.clip(custom=True, bias="siglip" in family, vision={"layers": 3}, text=text)
    assert isinstance(model, CustomTextCLIP)
    return assemble.clip_backbone(f"tiny-{family}", model, kind.tokenizer(), images={}), model


@torch.no_grad()
def upstream(model: CustomTextCLIP, ids: Tensor, slots: Tensor, prompts: Tensor, *edits: Edit | None) -> Tensor:
    """Encode texts with open_clip alone.

    Args:
        model: The model, whose vocabulary is restored.
        ids: Token ids, (C, context).
        slots: Positions of the prompts, (C, P).
        prompts: (P, D); they are written into rows of the vocabulary that the texts do not use.
        edits: Change the stream, (C, L, D), in front of the blocks from the second on.
    """
    table, used = model.text.token_embedding.weight, set(ids.unique().tolist())
    rows = [number for number in range(3, len(table) - 2) if number not in used][: len(prompts)]
    kept = table.detach().clone()
    table[rows] = prompts.to(table.dtype)
    handles = [
        block.register_forward_pre_hook(lambda _, inputs, edit=edit: (edit(inputs[0]), *inputs[1:]))
        for block, edit in zip(model.text.transformer.resblocks[1:], edits, strict=False)
        if edit is not None
    ]
    try:
        return model.encode_text(ids.scatter(1, slots, torch.tensor(rows).expand(len(ids), -1)))
    finally:
        table.copy_(kept)
        for handle in handles:
            handle.remove()


def replaced(x: Tensor, start: int, prompts: Tensor) -> Tensor:
    """Return a stream with prompts, (P, D) or (C, P, D), from position ``start`` on."""
    return torch.cat([x[:, :start], prompts.expand(len(x), -1, -1), x[:, start + prompts.shape[-2] :]], dim=1)


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
