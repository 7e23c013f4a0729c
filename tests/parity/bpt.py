"""Recorded BPT: prompts of low rank in a small ViT."""

from collections.abc import Callable
from typing import Any

from selfprompt.data.views import Views
from selfprompt.methods.registry import build_method
from tests.parity.rebuild import config_of, vit_backbone, vit_weights
from tests.parity.report import Arrays, Report
from tests.parity.text_heads import PRECISIONS, compare


def check_bpt(arrays: Arrays, report: Report) -> None:
    """``bpt``: prompts, logits, loss and gradients; the start by whitening is not ours."""
    config = config_of(arrays)
    sizes = {"patch_size": config["patch"], "img_size": config["img"], "embed_dim": config["D"], "mlp_ratio": 2}
    sizes |= {"depth": config["depth"], "num_heads": config["heads"], "layer_norm_eps": 1e-6}
    for suffix, dtype, tolerance in PRECISIONS:
        for case in [name.removesuffix(".A") for name in arrays if name.endswith(".A")]:
            backbone, tokens = vit_backbone(vit_weights(arrays), sizes, dtype), arrays.tensor(f"{case}.A", dtype)
            layers, count, rank = tokens.shape
            options = {"prompts": count, "rank": rank, "deep": layers > 1, "last": layers}
            pooling = "avg" if case.startswith("mae") else "cls"
            names = [f"class {index}" for index in range(config["C"])]
            method: Any = build_method("bpt", backbone, names, pooling=pooling, **options).to(dtype)
            channels = arrays.tensor(f"{case}.B", dtype)
            head = {f"head.{part}": arrays.tensor(f"w.head.{part}", dtype) for part in ("weight", "bias")}
            method.load_adapter_state_dict({"tokens": tokens, "channels": channels, **head})
            images, labels = arrays.tensor("images", dtype), arrays.tensor("labels")
            terms = method.loss(Views(images, labels=labels))
            terms.backward()
            ours = {"prompts": method.prompts(), "logits": method(images), "loss": terms.total}
            ours |= {"grad_A": method.tokens.grad, "grad_B": method.channels.grad}
            for name, value in ours.items():
                compare(report, arrays, f"{case}.{name}{suffix}", value, tolerance)


def checker(arrays: Arrays) -> Callable[[Arrays, Report], None] | None:
    """The check for a file of this family; None for others."""
    return check_bpt if "mae_shallow.A" in arrays else None
