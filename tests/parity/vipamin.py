"""Recorded VIPAMIN: the start of its prompts from block 0 of a small ViT."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.models.block import BlockParts, identity
from selfprompt.prompts.vipamin_start import block_means, head_mean_keys, matched_tokens, orthogonal_tokens
from tests.parity.rebuild import config_of
from tests.parity.report import Arrays, Report
from tests.parity.text_heads import PRECISIONS, compare


def recorded_block(arrays: Arrays, dtype: torch.dtype) -> BlockParts:
    """Block 0, as far as it was recorded."""
    weight, bias, scale, shift = (arrays.tensor(name, dtype) for name in ("Wqkv", "bqkv", "ln_w", "ln_b"))
    config = config_of(arrays)

    def norm(x: Tensor) -> Tensor:
        return F.layer_norm(x, scale.shape, scale, shift, config["eps"])

    return BlockParts(norm, weight, bias, config["heads"], identity, identity, lambda y, _: y, identity)


def check_vipamin(arrays: Arrays, report: Report) -> None:
    """``vipamin``: the order of the patches, both parts, the attention's outputs; the released new part is not ours."""
    for suffix, dtype, tolerance in PRECISIONS:
        block, tokens = recorded_block(arrays, dtype), arrays.tensor("tokens", dtype)
        prompts, random = arrays.tensor("prompts", dtype), arrays.tensor("random", dtype)
        means = block_means(block, tokens, 1)
        own = F.normalize(head_mean_keys(block, prompts), dim=-1)
        order = (own @ F.normalize(means.keys, dim=-1).t()).argsort(dim=1, descending=True)
        report.same(f"match_order{suffix}", order.tolist(), arrays[f"match_order{suffix}"].tolist())
        ours = {"attention_output_mean": means.attended, "orthogonal_right": orthogonal_tokens(block, random, means)}
        ours |= {f"match_k{k}": matched_tokens(block, prompts, means, k) for k in config_of(arrays)["ks"]}
        for name, value in ours.items():
            compare(report, arrays, f"{name}{suffix}", value, tolerance)


def checker(arrays: Arrays) -> Callable[[Arrays, Report], None] | None:
    """The check for a file of this family; None for others."""
    return check_vipamin if "orthogonal_right_f64" in arrays else None
