"""CLIP and SEP in PyTorch, written from the paper, and files of their results in the recorded format."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
START, END, PLACEHOLDER, STOP = 510, 511, 87, 13


@dataclass(frozen=True)
class Sizes:
    """A toy CLIP, the prompts, and how long each class name is; field names are those of ``meta_json``."""

    embed: int = 24
    res: int = 32
    vl: int = 3
    vw: int = 64
    patch: int = 8
    ctxlen: int = 20
    vocab: int = 512
    tw: int = 64
    tl: int = 3
    n_ctx: int = 3
    n_ctx_v: int = 2
    layers: tuple[int, ...] = (1, 2)
    W: float = 8.0
    W_V: float = 6.0
    max_epoch: int = 3
    batch: int = 4
    names: tuple[int, ...] = (1, 2, 3, 5, 4)
    fusion_hidden: int = field(default=256, repr=False)


class Drawer:
    """Draw normal numbers from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, std: float = 0.2, mean: float = 0.0) -> Tensor:
        return mean + std * torch.randn(*shape, generator=self.generator)

    def norm(self, name: str, width: int) -> Weights:
        return {f"{name}.weight": self(width, mean=1.0), f"{name}.bias": self(width)}


def draw_clip(sizes: Sizes, draw: Drawer) -> Weights:
    """Random weights under OpenAI's names."""
    tokens = 1 + (sizes.res // sizes.patch) ** 2
    weights = {
        "positional_embedding": draw(sizes.ctxlen, sizes.tw),
        "text_projection": draw(sizes.tw, sizes.embed),
        "logit_scale": torch.tensor(math.log(1 / 0.07)),
        "visual.class_embedding": draw(sizes.vw),
        "visual.positional_embedding": draw(tokens, sizes.vw),
        "visual.proj": draw(sizes.vw, sizes.embed),
        "visual.conv1.weight": draw(sizes.vw, 3, sizes.patch, sizes.patch, std=0.08),
        "token_embedding.weight": draw(sizes.vocab, sizes.tw),
    }
    norms = {"visual.ln_pre": sizes.vw, "visual.ln_post": sizes.vw, "ln_final": sizes.tw}
    for tower, width, depth in (("visual.transformer", sizes.vw, sizes.vl), ("transformer", sizes.tw, sizes.tl)):
        for i in range(depth):
            name = f"{tower}.resblocks.{i}"
            norms |= {f"{name}.ln_1": width, f"{name}.ln_2": width}
            weights |= draw_attention(f"{name}.attn", width, draw)
            weights[f"{name}.mlp.c_fc.weight"] = draw(4 * width, width, std=width**-0.5)
            weights[f"{name}.mlp.c_fc.bias"] = draw(4 * width)
            weights[f"{name}.mlp.c_proj.weight"] = draw(width, 4 * width, std=(4 * width) ** -0.5)
            weights[f"{name}.mlp.c_proj.bias"] = draw(width)
    for name, width in norms.items():
        weights |= draw.norm(name, width)
    return weights


def draw_attention(name: str, width: int, draw: Drawer) -> Weights:
    return {
        f"{name}.in_proj_weight": draw(3 * width, width, std=1.5 * width**-0.5),
        f"{name}.in_proj_bias": draw(3 * width),
        f"{name}.out_proj.weight": draw(width, width, std=width**-0.5),
        f"{name}.out_proj.bias": draw(width),
    }


def draw_learner(sizes: Sizes, draw: Drawer) -> Weights:
    """Prompts and fusion modules under the names of released checkpoints, including unused norms."""
    weights = {"ctx": draw(sizes.n_ctx, sizes.tw), "ctx_visual": draw(sizes.n_ctx_v, sizes.vw)}
    for branch, width in (("prompt_projections", sizes.tw), ("visual_prompts", sizes.vw)):
        for j in range(len(sizes.layers)):
            name = f"{branch}.{j}"
            weights |= {f"{name}.scale1": draw(1, mean=0.7), f"{name}.scale2": draw(1, mean=0.7)}
            weights |= draw_attention(f"{name}.promt_attention_visual", width, draw)
            for norm in ("ln_pa_1_visual", "ln_pa_1_token", "ln_pa_2_visual"):
                weights |= draw.norm(f"{name}.{norm}", width)
            hidden = sizes.fusion_hidden
            weights[f"{name}.mlp_pa_visual.c_fc1.weight"] = draw(hidden, width, std=width**-0.5)
            weights[f"{name}.mlp_pa_visual.c_proj.weight"] = draw(width, hidden, std=hidden**-0.5)
    return weights


def token_ids(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Ids of the texts with placeholders and of the templates, (C, T) each."""
    prompts = torch.zeros(len(sizes.names), sizes.ctxlen, dtype=torch.long)
    templates = prompts.clone()
    first = 200
    for row, length in enumerate(sizes.names):
        name = list(range(first, first + length))
        first += length
        text = [START, *[PLACEHOLDER] * sizes.n_ctx, *name, STOP, END]
        prompts[row, : len(text)] = torch.tensor(text)
        text = [START, 30, 31, *name, STOP, END]
        templates[row, : len(text)] = torch.tensor(text)
    return prompts, templates


def norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def attention(query: Tensor, key: Tensor, weights: Weights, name: str, mask: Tensor | None = None) -> Tensor:
    """Attention over the second axis with heads of 64 channels; values are projected from the keys."""
    width, heads = query.shape[-1], query.shape[-1] // 64
    parts = weights[f"{name}.in_proj_weight"].split(width)
    biases = weights[f"{name}.in_proj_bias"].split(width)
    q, k, v = (
        (x @ part.t() + bias).unflatten(-1, (heads, 64)).transpose(-2, -3)
        for x, part, bias in zip((query, key, key), parts, biases, strict=True)
    )
    scores = q @ k.transpose(-1, -2) / 8
    if mask is not None:
        scores = scores.masked_fill(mask, -math.inf)
    mixed = (scores.softmax(dim=-1) @ v).transpose(-2, -3).flatten(-2)
    return mixed @ weights[f"{name}.out_proj.weight"].t() + weights[f"{name}.out_proj.bias"]


def block(x: Tensor, weights: Weights, name: str, causal: bool) -> Tensor:
    length = x.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).triu(1) if causal else None
    y = norm(x, weights, f"{name}.ln_1")
    x = x + attention(y, y, weights, f"{name}.attn", mask)
    y = norm(x, weights, f"{name}.ln_2")
    y = quick_gelu(y @ weights[f"{name}.mlp.c_fc.weight"].t() + weights[f"{name}.mlp.c_fc.bias"])
    return x + y @ weights[f"{name}.mlp.c_proj.weight"].t() + weights[f"{name}.mlp.c_proj.bias"]


def fuse(tokens: Tensor, prompts: Tensor, learner: Weights, name: str, axis: str) -> Tensor:
    """The token fusion module; the spec's R and Q are tokens and prompts, both (N, k, d)."""
    query = norm(prompts, learner, f"{name}.ln_pa_1_visual")
    key = norm(tokens, learner, f"{name}.ln_pa_1_visual")
    if axis == "batch":
        columns = [
            attention(query[None, :, i], key[None, :, i], learner, f"{name}.promt_attention_visual")[0]
            for i in range(tokens.shape[1])
        ]
        answer = torch.stack(columns, dim=1)
    else:
        answer = attention(query, key, learner, f"{name}.promt_attention_visual")
    one, two = learner[f"{name}.scale1"], learner[f"{name}.scale2"]
    first = one * tokens + (1 - one) * answer
    hidden = norm(first, learner, f"{name}.ln_pa_2_visual") @ learner[f"{name}.mlp_pa_visual.c_fc1.weight"].t()
    return two * first + (1 - two) * quick_gelu(hidden) @ learner[f"{name}.mlp_pa_visual.c_proj.weight"].t()


@dataclass
class Forward:
    """SEP's forward; keeps what the recorded files hold.

    Attributes:
        axis: "batch" as released, "tokens" as corrected; the same for the choice of patches.
    """

    sizes: Sizes
    clip: Weights
    axis: str = "batch"
    kept: dict[str, Tensor] = field(default_factory=dict)

    def image(self, images: Tensor, learner: Weights | None) -> Tensor:
        """Image features, not normalised; without a learner those of the frozen CLIP."""
        clip, sizes = self.clip, self.sizes
        x = F.conv2d(images, clip["visual.conv1.weight"], stride=sizes.patch).flatten(2).transpose(1, 2)
        x = torch.cat([clip["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
        x = x + clip["visual.positional_embedding"]
        length, kind = x.shape[1], "frozen" if learner is None else "prompted"
        if learner is not None:
            x = torch.cat([x, learner["ctx_visual"].expand(len(x), -1, -1)], dim=1)
        x = norm(x, clip, "visual.ln_pre")
        for i in range(sizes.vl):
            if learner is not None and i in sizes.layers:
                x = self.refresh_image(x, length, learner, sizes.layers.index(i))
            x = block(x, clip, f"visual.transformer.resblocks.{i}", causal=False)
            self.kept[f"block.visual.{i}.{kind}"] = x
        return norm(x[:, 0], clip, "visual.ln_post") @ clip["visual.proj"]

    def refresh_image(self, x: Tensor, length: int, learner: Weights, j: int) -> Tensor:
        count = self.sizes.n_ctx_v
        power = x[:, :length].square().mean(dim=-1)
        if self.axis == "batch":
            power = power.mean(dim=0)
            chosen = power.argsort(descending=True)[:count]
            tokens = x[:, chosen]
            self.kept |= {f"out/topk_index.{j}": chosen, f"out/topk_power.{j}": power}
        else:
            chosen = power.argsort(dim=1, descending=True)[:, :count]
            tokens = torch.stack([row[index] for row, index in zip(x, chosen, strict=True)])
        prompts = x[:, length:]
        fused = fuse(tokens, prompts, learner, f"visual_prompts.{j}", self.axis)
        self.note("visual", j, tokens, prompts, fused)
        return torch.cat([x[:, :length], fused], dim=1)

    def text(self, ids: Tensor, learner: Weights | None) -> Tensor:
        """Text features, not normalised; full length, nothing is cut."""
        clip, sizes, n = self.clip, self.sizes, self.sizes.n_ctx
        x = clip["token_embedding.weight"][ids]
        if learner is not None:
            x = torch.cat([x[:, :1], learner["ctx"].expand(len(x), -1, -1), x[:, 1 + n :]], dim=1)
        x = x + clip["positional_embedding"]
        for i in range(sizes.tl):
            if learner is not None and i in sizes.layers:
                j = sizes.layers.index(i)
                prompts, tokens = x[:, 1 : 1 + n], x[:, 1 + n : 1 + 2 * n]
                fused = fuse(tokens, prompts, learner, f"prompt_projections.{j}", self.axis)
                self.note("text", j, tokens, prompts, fused)
                x = torch.cat([x[:, :1], fused, x[:, 1 + n :]], dim=1)
            x = block(x, clip, f"transformer.resblocks.{i}", causal=True)
            if learner is not None:
                self.kept[f"block.text.{i}.prompted"] = x
        rows = norm(x, clip, "ln_final")[torch.arange(len(x)), ids.argmax(dim=1)]
        return rows @ clip["text_projection"]

    def note(self, branch: str, j: int, tokens: Tensor, prompts: Tensor, fused: Tensor) -> None:
        named = {"tokens": tokens, "prompts_in": prompts, "prompts_out": fused}
        self.kept |= {f"tfm.{branch}.{j}.{name}": value for name, value in named.items()}

    def step(self, images: Tensor, labels: Tensor, learner: Weights) -> dict[str, Tensor]:
        """Every output of one training step, without the prefix ``out/``."""
        prompts, templates = token_ids(self.sizes)
        out = {"image_features_frozen_raw": self.image(images, None)}
        out["image_features_frozen"] = frozen = F.normalize(out["image_features_frozen_raw"], dim=-1)
        out["image_features_prompted_raw"] = self.image(images, learner)
        out["image_features_prompted"] = F.normalize(out["image_features_prompted_raw"], dim=-1)
        out["image_features_mixed"] = mixed = F.normalize(out["image_features_prompted"] + frozen, dim=-1)
        out["text_features_template"] = template = F.normalize(self.text(templates, None), dim=-1)
        out["text_features_prompted_raw"] = self.text(prompts, learner)
        out["text_features_prompted"] = F.normalize(out["text_features_prompted_raw"], dim=-1)
        out["text_features_mixed"] = text = F.normalize(out["text_features_prompted"] + template, dim=-1)
        out["logits"] = self.clip["logit_scale"].exp() * mixed @ text.t()
        prototypes = F.normalize(learner["VPT_fc.weight"], dim=-1)
        out["loss_ce"] = F.cross_entropy(out["logits"], labels)
        out["loss_text_consistency_unweighted"] = 1 - F.cosine_similarity(text, template, eps=1e-7).mean()
        out["loss_visual_consistency_unweighted"] = 1 - F.cosine_similarity(mixed, frozen, eps=1e-7).mean()
        out["loss_ce_proto_mixed"] = F.cross_entropy(10 * mixed @ prototypes.t(), labels)
        out["loss_ce_proto_frozen"] = F.cross_entropy(10 * frozen @ prototypes.t(), labels)
        out["loss_total"] = (
            out["loss_ce"]
            + self.sizes.W * out["loss_text_consistency_unweighted"]
            + self.sizes.W_V * out["loss_visual_consistency_unweighted"]
            + (out["loss_ce_proto_mixed"] + out["loss_ce_proto_frozen"]) / 2
        )
        return out


@dataclass(frozen=True)
class Case:
    """A toy problem: frozen and trainable weights, images and labels."""

    sizes: Sizes
    clip: Weights
    learner: Weights
    images: Tensor
    labels: Tensor
    support: Tensor
    support_labels: Tensor


def draw_case(sizes: Sizes, seed: int) -> Case:
    """Random weights and images; prototypes are the class means of the support images."""
    draw, classes = Drawer(seed), len(sizes.names)
    clip, learner = draw_clip(sizes, draw), draw_learner(sizes, draw)
    labels = torch.arange(2 * classes) % classes
    support = draw(2 * classes, 3, sizes.res, sizes.res, std=1)
    unit = F.normalize(Forward(sizes, clip).image(support, None), dim=-1)
    means = torch.stack([unit[labels == label].mean(dim=0) for label in range(classes)])
    learner["VPT_fc.weight"] = F.normalize(means, dim=-1)
    images = draw(sizes.batch, 3, sizes.res, sizes.res, std=1)
    return Case(sizes, clip, learner, images, torch.arange(sizes.batch) % classes, support, labels)


def with_gradients(learner: Weights) -> Weights:
    """Return copies that require a gradient."""
    return {name: tensor.clone().requires_grad_() for name, tensor in learner.items()}


def record_step(case: Case, axis: str = "batch") -> dict[str, Any]:
    """The arrays of ``sep_tiny.npz`` for another problem."""
    forward, learner = Forward(case.sizes, case.clip, axis), with_gradients(case.learner)
    out = forward.step(case.images, case.labels, learner)
    out["loss_total"].backward()
    prompts, templates = token_ids(case.sizes)
    return {
        **{f"clip/{name}": tensor for name, tensor in case.clip.items()},
        **{f"prompt_learner/{name}": tensor for name, tensor in case.learner.items()},
        **{f"grad/{name}": tensor.grad for name, tensor in learner.items() if tensor.grad is not None},
        **{f"out/{name}": tensor for name, tensor in out.items()},
        **forward.kept,
        "proto_weight_init": case.learner["VPT_fc.weight"],
        "support_images": case.support,
        "support_labels": case.support_labels,
        "token_ids_prompt": prompts,
        "token_ids_template": templates,
        "images": case.images,
        "labels": case.labels,
    }


def record_training(case: Case, steps: int) -> dict[str, Any]:
    """The arrays of ``sep_tiny_train.npz``: Adam with L2 decay, then logits in other batches."""
    learner, arrays = with_gradients(case.learner), {}
    adam = torch.optim.Adam(learner.values(), eps=1e-3, weight_decay=5e-4)
    for step in range(steps):
        rate = 1e-5 if step == 0 else 2.5e-3 * (1 + math.cos(math.pi * (step - 1) / case.sizes.max_epoch)) / 2
        adam.param_groups[0]["lr"] = rate
        images = case.images.roll(step, dims=2)
        out = Forward(case.sizes, case.clip).step(images, case.labels, learner)
        adam.zero_grad()
        out["loss_total"].backward()
        adam.step()
        kept = {"lr": rate, "images": images, "labels": case.labels}
        kept |= {"loss": out["loss_total"], "logits": out["logits"]}
        trained = {name: tensor for name, tensor in learner.items() if tensor.grad is not None}
        kept |= {f"param/{name}": tensor.detach().clone() for name, tensor in trained.items()}
        arrays |= {f"step{step + 1}/{name}": value for name, value in kept.items()}
    return arrays | record_evaluation(case, learner)


@torch.no_grad()
def record_evaluation(case: Case, learner: Weights) -> dict[str, Tensor]:
    def logits(images: Tensor) -> Tensor:
        labels = torch.zeros(len(images), dtype=torch.long)
        return Forward(case.sizes, case.clip).step(images, labels, learner)["logits"]

    text = Forward(case.sizes, case.clip).step(case.images, case.labels, learner)["text_features_mixed"]
    return {
        "eval/images": case.images,
        "eval/logits_batch": logits(case.images),
        "eval/logits_reversed": logits(case.images.flip(0)),
        "eval/logits_one_by_one": torch.cat([logits(image) for image in case.images.split(1)]),
        "eval/logits_first_two": logits(case.images[:2]),
        "eval/text_features_mixed": text,
    }


def save(path: Path, arrays: Mapping[str, Any], sizes: Sizes | None = None) -> Path:
    """Write a file in the recorded format."""
    plain = {name: np.asarray(value.detach() if isinstance(value, Tensor) else value) for name, value in arrays.items()}
    if sizes is not None:
        text = json.dumps(asdict(sizes)).encode()
        plain["meta_json"] = np.frombuffer(text, dtype=np.uint8)
    np.savez(path, **plain)
    return path
