"""Recorded methods that change the towers of a small CLIP: 2SFS, CLIP-SVD, MMRL."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.clip_svd import SingularValues
from selfprompt.methods.heads import unit
from selfprompt.methods.registry import build_method
from selfprompt.models.block import Weights, run_block
from selfprompt.models.embedded_clip import ResidualAttentionBlock
from selfprompt.models.loading.by_name import Backbone
from selfprompt.models.open_clip_vit import block_parts, block_weights
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.optim import build_optimizer
from selfprompt.training.schedule import learning_rate, set_learning_rate
from tests.parity.rebuild import RecordedTokenizer, clip_backbone, config_of, related_file, words_of
from tests.parity.report import Arrays, Report
from tests.parity.text_heads import PRECISIONS, compare

WEIGHTS = "mmrl.npz"
NORMS = {"ln_1": "norm1", "ln_2": "norm2"}
SIDES = (("image", "visual"), ("text", "text"))
Check = Callable[[Arrays, Report], None]


@dataclass(frozen=True)
class OneBlock:
    """A recorded block without norms in place of a tower of depth 1."""

    block: ResidualAttentionBlock
    depth: int = 1

    @classmethod
    def of(cls, arrays: Arrays, dtype: torch.dtype) -> "OneBlock":
        """Return the block with the recorded weights."""
        meta = config_of(arrays)
        block = ResidualAttentionBlock(meta["D"], meta["heads"]).to(dtype)
        block.ln_1 = block.ln_2 = torch.nn.Identity()  # type: ignore[assignment]
        names = {"qkv": "in_proj", "out": "out", "up": "fc", "down": "proj"}
        with torch.no_grad():
            for name, tensor in block_weights(block).items():
                layer, kind = name.split(".")
                tensor.copy_(arrays.tensor(f"{names[layer]}_{kind}", dtype))
        return cls(block.requires_grad_(False))

    def block_weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights of the block."""
        return block_weights(self.block)

    def derived(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what is computed from the weights."""
        return compute()

    def run(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run the block, (L, B, D) in and out."""
        parts = block_parts(self.block, weights)
        assert parts is not None
        return run_block(parts, x.transpose(0, 1)).transpose(0, 1)


class Recorded:
    """The recorded CLIP, its images, labels and class texts, from ``mmrl.npz`` or the file next to a recorded one."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays if "token_ids" in arrays else Arrays(related_file(arrays.path, WEIGHTS))
        self.ids = self.arrays.tensor("token_ids")
        self.names = [f"class {index}" for index in range(len(self.ids))]
        self.labels = self.arrays.tensor("labels")

    def backbone(self) -> Backbone:
        """Return the CLIP, with a tokenizer that knows the recorded texts."""
        meta, weights = config_of(self.arrays), self.arrays.group("w.")
        weights.pop("visual.proj_rep", None)
        sizes = {"embed": meta["emb"], "res": meta["img"], "ctxlen": meta["ctx"]}
        sizes |= {
            "vl": meta["layers"],
            "tl": meta["layers"],
            **{key: meta[key] for key in ("vw", "tw", "patch", "vocab")},
        }
        words = {"": [], **dict(zip(self.names, map(words_of, self.ids), strict=True))}
        tokenizer = RecordedTokenizer(words, self.ids[0])
        frozen = clip_backbone(weights, sizes, tokenizer)
        return replace(frozen, scale=math.exp(float(weights["logit_scale"])))  # in float64

    def method(
        self,
        name: str,
        dtype: torch.dtype,
        names: Sequence[str] | None = None,
        *,
        scale: float | None = None,
        **options: Any,
    ) -> Any:
        """Build a method on the CLIP, both in one precision."""
        frozen = self.backbone()
        frozen = replace(frozen, scale=scale or frozen.scale)
        for tower in filter(None, (frozen.vision, frozen.text)):
            tower.to(dtype)
        options = {"template": "{}", **options}
        return build_method(name, frozen, names or self.names, check=False, **options).to(dtype)

    def views(self, dtype: torch.dtype) -> Views:
        """Return the images with their labels."""
        return Views(self.arrays.tensor("images", dtype), labels=self.labels)


def train(method: Method, views: Views, options: TrainOptions) -> None:
    """Take the steps of a training whose every epoch is one step, with its stages."""
    optimizer = build_optimizer(method.trainable().items(), options)
    method.train()
    for epoch in range(options.epochs):
        stage = method.traits.stage(epoch, options.epochs)
        set_learning_rate(optimizer, learning_rate(options, epoch - stage.start, 0, 1, epochs=len(stage)))
        optimizer.zero_grad()
        method.loss(views).backward()
        optimizer.step()
        method.after_epoch(epoch, options.epochs)
    method.eval()


def tuned_norms(method: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the tuned norms, such as gradients, under OpenAI's names."""
    found = {}
    for side, prefix, tower in (("image", "visual.", method.vision), ("text", "", method.text)):
        for index in range(tower.depth):
            for theirs, ours in NORMS.items():
                for kind in ("weight", "bias"):
                    name = f"{prefix}transformer.resblocks.{index}.{theirs}.{kind}"
                    found[name] = tensors[f"{side}_weights.{ours}_{kind}"][index]
    return found


def check_two_stage(arrays: Arrays, report: Report) -> None:
    """``two_stage``: loss and gradients at the start, norms and classifier after their steps, logits."""
    meta, recorded = config_of(arrays), Recorded(arrays)
    first, second = meta["stage1_steps"], meta["stage2_steps"]
    options = TrainOptions(
        epochs=first + second,
        optimizer="adamw",
        lr=meta["lr"],
        weight_decay=0.01,
        schedule="warmup_cosine",
        warmup_epochs=0,
        min_lr=1e-6,
    )
    for suffix, dtype, tolerance in PRECISIONS:
        views = recorded.views(dtype)
        method = recorded.method("two-stage", dtype, first=first / options.epochs)
        report.same(f"trained{suffix}", sorted(meta["trained"]), sorted(tuned_norms(method, method.trainable())))
        terms = method.loss(views)
        terms.backward()
        compare(report, arrays, f"loss_start{suffix}", terms.total, tolerance)
        gradients = {name: p.grad for name, p in method.trainable().items() if p.grad is not None}
        for name, gradient in tuned_norms(method, gradients).items():
            compare(report, arrays, f"grad.{name}{suffix}", gradient, tolerance)
        train(method, views, options)
        for name, tensor in tuned_norms(method, method.trainable()).items():
            compare(report, arrays, f"stage1.{name}{suffix}", tensor, tolerance)
        with torch.no_grad():
            compare(report, arrays, f"classifier_start{suffix}", method.encode_class_texts(), tolerance)
            compare(report, arrays, f"stage2.classifier{suffix}", method.classifier, tolerance)
            compare(report, arrays, f"logits_known{suffix}", method.logits(views), tolerance)
            selective = recorded.method("two-stage", dtype, [recorded.names[index] for index in (0, 2, 1)])
            kept = [index for index in range(len(recorded.names)) if index != 2]
            tensors = method.adapter_state_dict()
            selective.load_adapter_state_dict(tensors | {name: tensors[name][kept] for name in ("classifier", "known")})
            compare(report, arrays, f"logits_selective{suffix}", selective.logits(views), tolerance)


def check_clipsvd(arrays: Arrays, report: Report) -> None:
    """``clipsvd``: singular values, outputs, gradients of the first step, and values after each of some steps."""
    meta = config_of(arrays)
    names = {"q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "out": "attn.proj"}
    names |= {"up": "mlp.c_fc", "down": "mlp.c_proj"}
    rate, decay = meta["lr"], meta["weight_decay"]
    options = TrainOptions(
        epochs=meta["T_max"],
        optimizer="adamw",
        lr=rate,
        weight_decay=decay,
        schedule="warmup_cosine",
        warmup_epochs=0,
        min_lr=meta["eta_min"],
    )
    for suffix, dtype, tolerance in PRECISIONS:
        block, x = OneBlock.of(arrays, dtype), arrays.tensor("x", dtype)
        tuned, classes = SingularValues(block), unit(arrays.tensor("classifier", dtype))
        optimizer, losses = build_optimizer(tuned.named_parameters(), options), []
        compare(report, arrays, f"out_plain{suffix}", block.run(x), tolerance)
        compare(report, arrays, f"out_decomposed{suffix}", block.run(x, tuned.weights(0)), tolerance)
        for step in range(len(arrays[f"losses{suffix}"]) + 1):
            for ours, theirs in names.items():
                compare(report, arrays, f"S{step}.{theirs}{suffix}", tuned.get_parameter(ours)[0], tolerance)
            if f"S{step + 1}.{names['q']}{suffix}" not in arrays:
                break
            logits = 100 * unit(block.run(x, tuned.weights(0))[0]) @ classes.t()
            loss = F.cross_entropy(logits, arrays.tensor("labels"))
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            for ours, theirs in names.items() if step == 0 else ():
                gradient = tuned.get_parameter(ours).grad
                assert gradient is not None
                compare(report, arrays, f"grad.{theirs}{suffix}", gradient[0], tolerance)
            set_learning_rate(optimizer, learning_rate(options, step, 0, 1))
            optimizer.step()
        compare(report, arrays, f"losses{suffix}", losses, tolerance)
        compare(report, arrays, f"out_after{suffix}", block.run(x, tuned.weights(0)), tolerance)
        q = tuned.weights(0)["qkv.weight"].chunk(3)[0]
        compare(report, arrays, f"q_weight_after{suffix}", q, tolerance)


def check_mmrl(arrays: Arrays, report: Report) -> None:
    """``mmrl``: features with and without tokens, all logits, the loss and its gradients."""
    meta, recorded = config_of(arrays), Recorded(arrays)
    count, width, blocks = meta["n_rep"], meta["rep_dim"], len(meta["rep_layers"])
    options = {"tokens": count, "width": width, "last": blocks, "alpha": meta["alpha"], "weight": meta["reg"]}
    theirs = {"tokens": "rep_tokens", "projection": "proj_rep"}
    theirs |= {f"{ours}_maps.{kind}": f"rep_{side}_{kind}" for ours, side in SIDES for kind in ("weight", "bias")}
    for suffix, dtype, tolerance in PRECISIONS:
        method, views = recorded.method("mmrl", dtype, scale=100.0, **options), recorded.views(dtype)
        given = {**arrays, "proj_rep": arrays["w.visual.proj_rep"]}
        tensors = {ours: torch.from_numpy(given[name]).to(dtype) for ours, name in theirs.items()}
        method.load_adapter_state_dict(tensors | {"known": method.known.clone()})
        features, texts, logits, others = method.both_logits(views)
        terms = method.loss(views)
        terms.backward()
        ours = {"image_features_frozen": unit(method.vision(views.pixels)), "text_features_frozen": method.texts}
        ours |= {"image_features": features, "text_features": texts, "logits": logits, "logits_rep": others}
        ours |= {"logits_fusion": method.logits(views), "loss": terms.total}
        ours |= {f"grad_{name}": method.get_parameter(own).grad for own, name in theirs.items()}
        for name, value in ours.items():
            compare(report, arrays, f"{name}{suffix}", value, tolerance)


CHECKS: dict[str, Check] = {  # by the method that a file names
    "2SFS, LN-tune": check_two_stage,
    "CLIP-SVD": check_clipsvd,
    "MMRL": check_mmrl,
}


def checker(arrays: Arrays) -> Check | None:
    """The check for a file of this family; None for others."""
    return CHECKS.get(config_of(arrays).get("method", "")) if "meta_json" in arrays else None
