"""Recorded SEP results."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfprompt.data.dataset import Dataset, ImageTable, IndexedSource, Item
from selfprompt.data.fewshot import draw_shots, select_base_new
from selfprompt.data.loading.transforms import eval_transform, train_transform
from selfprompt.data.views import Views
from selfprompt.methods.registry import build_method
from selfprompt.methods.sep import SEP, from_released_name, load_released_checkpoint
from selfprompt.models.loading.by_name import Preprocess
from selfprompt.models.tokens import Tokens
from selfprompt.prompts.fusion import TokenFusion, strongest_indices
from selfprompt.prompts.record import Record
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.optim import build_optimizer
from selfprompt.training.schedule import dassl_cosine, set_learning_rate
from tests.parity.rebuild import RecordedTokenizer, clip_backbone, config_of, related_file, words_of
from tests.parity.report import FLOAT32, Arrays, Report

LOSSES = {
    "loss_ce": "ce",
    "loss_text_consistency_unweighted": "text",
    "loss_visual_consistency_unweighted": "image",
    "loss_ce_proto_mixed": "prototype_mixed",
    "loss_ce_proto_frozen": "prototype_frozen",
}
GRADIENT = {"tolerance": FLOAT32, "relative": 1e-4}


def recorded_method(arrays: Arrays, **others: Any) -> SEP:
    """Build SEP as released, or with other options, with the recorded CLIP, prompts and fusion modules."""
    meta = config_of(arrays)
    prompts, templates = arrays.tensor("token_ids_prompt"), arrays.tensor("token_ids_template")
    names = [f"class {i}" for i in range(len(prompts))]

    count, words = len(arrays["prompt_learner/ctx"]), {"": [], "x": [int(prompts[0, 1])]}
    for name, prompted, template in zip(names, prompts, templates, strict=True):
        words |= {f"x {name}.": words["x"] + words_of(prompted)[count:], f"template {name}": words_of(template)}
        words[name] = words_of(template)

    options = {
        "text_prompts": count,
        "image_prompts": len(arrays["prompt_learner/ctx_visual"]),
        "layers": tuple(meta["layers"]),
        "fusion_axis": "batch",
        "selection": "batch",
        "template": "template {}",
        "text_weight": meta["W"],
        "image_weight": meta["W_V"],
        **others,
    }
    tokenizer = RecordedTokenizer(words, prompts[0])
    method = build_method("sep", clip_backbone(arrays.group("clip/"), meta, tokenizer), names, **options)
    assert isinstance(method, SEP)
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.group("prompt_learner/").items()}
    load_released_checkpoint(method, state)
    return method


class Support:
    """Training source of the recorded images of the class means."""

    keeps_features = False

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels, self.size = images, labels, len(labels)

    def epoch(self, number: int) -> Iterator[Views]:
        yield Views(self.images, labels=self.labels)


def check_step(arrays: Arrays, report: Report) -> None:
    """Compare every intermediate, loss and gradient of one training step."""
    method = recorded_method(arrays)
    check_class_means(arrays, report)
    images, labels = arrays.tensor("images"), arrays.tensor("labels")
    streams, fused = watch(method, images)
    terms = method.loss(Views(images, labels=labels))
    terms.backward()
    ours = features(method, images) | {name: terms.terms[term] for name, term in LOSSES.items()}
    ours |= {"logits": method(images), "loss_total": terms.total}
    for name, value in ours.items():
        if f"out/{name}" in arrays:
            report.check(f"out/{name}", value, arrays[f"out/{name}"])
    check_choices(arrays, report, method, streams["visual.prompted"], "out/")
    check_blocks(arrays, report, streams)
    for name, value in fused.items():
        if name in arrays:
            report.check(name, value, arrays[name])
    gradients = {name: p.grad for name, p in method.trainable().items()}
    recorded = {from_released_name(name): name for name in arrays.group("grad/")}
    report.same("parameters with a gradient", sorted(recorded), sorted(gradients))
    for ours, name in recorded.items():
        if ours in gradients:
            report.check(f"grad/{name}", gradients[ours], arrays[f"grad/{name}"], **GRADIENT)
    frozen = [p.grad is None for tower in (method.vision, method.text) for p in tower.parameters()]
    report.same("frozen weights without gradient", all(frozen), True)


def check_class_means(arrays: Arrays, report: Report) -> None:
    """Prototypes from the support images."""
    method = recorded_method(arrays)
    source = Support(arrays.tensor("support_images"), arrays.tensor("support_labels"))
    method.prepare(source, torch.Generator())  # type: ignore[arg-type]
    report.check("proto_weight_init", method.prototypes, arrays["proto_weight_init"])


def features(method: SEP, images: Tensor) -> dict[str, Tensor]:
    """Image and text features at each stage, under their recorded names."""
    frozen, prompted, mixed = method.image_features(Views(images))
    raw_text = method.prompted_texts()
    return {
        "image_features_frozen_raw": method.vision(images),
        "image_features_frozen": frozen,
        "image_features_prompted_raw": method.prompted_images(images),
        "image_features_prompted": prompted,
        "image_features_mixed": mixed,
        "text_features_template": method.frozen_texts,
        "text_features_prompted_raw": raw_text,
        "text_features_prompted": raw_text / raw_text.norm(dim=-1, keepdim=True),
        "text_features_mixed": method.encode_classes(),
    }


def watch(method: SEP, images: Tensor) -> tuple[dict[str, Record], dict[str, Tensor]]:
    """The streams around the blocks of each pass, and what goes in and out of the fusion modules."""
    fused: dict[str, Tensor] = {}

    def keep(branch: str, number: int):
        def hook(module: TokenFusion, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
            for name, value in zip(("tokens", "prompts_in", "prompts_out"), (*inputs, output), strict=True):
                fused[f"tfm.{branch}.{number}.{name}"] = value

        return hook

    handles = [
        module.register_forward_hook(keep(branch, number))
        for branch, modules in (("text", method.text_fusions), ("visual", method.image_fusions))
        for number, module in enumerate(modules)
    ]
    streams = {"visual.frozen": Record()}
    method.vision(images, streams["visual.frozen"])
    originals = method.vision.forward, method.text.forward
    for name, tower, run in (
        ("visual.prompted", method.vision, lambda: method.prompted_images(images)),
        ("text.prompted", method.text, method.prompted_texts),
    ):
        streams[name] = Record()
        forward = tower.forward
        tower.forward = lambda inputs, prompter, f=forward, r=streams[name], **others: f(  # type: ignore[method-assign]
            inputs, _inside(r, prompter), **others
        )
        run()
    method.vision.forward, method.text.forward = originals  # type: ignore[method-assign]
    for handle in handles:
        handle.remove()
    return streams, fused


def _inside(record: Record, prompter: Any) -> Record:
    record.inner = prompter
    return record


def check_choices(arrays: Arrays, report: Report, method: SEP, record: Record, prefix: str) -> None:
    """Token power and the selected indices before each refreshed block."""
    for number, layer in enumerate(method.image_layers):
        # What the choice saw: the other tokens are not edited, so the block's input shows them.
        stream = record.inputs[layer]
        if f"{prefix}topk_index.{number}" in arrays:
            chosen = strongest_indices(stream, method.options.image_prompts, "batch")
            report.check(f"{prefix}topk_index.{number}", chosen, arrays[f"{prefix}topk_index.{number}"])
        if f"{prefix}topk_power.{number}" in arrays:
            power = stream.others().square().mean(dim=(0, 2))
            report.check(f"{prefix}topk_power.{number}", power, arrays[f"{prefix}topk_power.{number}"])


def check_blocks(arrays: Arrays, report: Report, streams: Mapping[str, Record]) -> None:
    """Block outputs; recorded images have their prompts last, and texts are not cut."""
    for name, record in streams.items():
        branch, kind = name.split(".")
        for index, stream in enumerate(record.outputs):
            key = f"block.{branch}.{index}.{kind}"
            if key in arrays:
                ours = prompts_last(stream) if branch == "visual" else stream.x
                start = 1 - stream.prefix  # SOS, which all texts share, is not in the stream
                report.check(key, ours, arrays[key][:, start : start + ours.shape[1]])


def prompts_last(tokens: Tokens) -> Tensor:
    """A stream in the recorded order, prefix | body | prompts."""
    return torch.cat([tokens.others(), tokens.prompts], dim=1)


def check_training(arrays: Arrays, report: Report) -> None:
    """Optimiser steps, then predictions that depend on the batch."""
    first = Arrays(sibling(arrays))
    meta = config_of(first)
    method = recorded_method(first)
    options = TrainOptions(
        optimizer="adam", lr=2.5e-3, eps=1e-3, weight_decay=5e-4, schedule="dassl_cosine", decay="all"
    )
    optimizer = build_optimizer(method.trainable().items(), options)
    steps = sorted({int(name.split("/")[0].removeprefix("step")) for name in arrays if name.startswith("step")})
    for step in steps:
        prefix = f"step{step}/"
        rate = dassl_cosine(step - 1, epochs=meta["max_epoch"], lr=2.5e-3)
        report.check(f"{prefix}lr", rate, arrays[f"{prefix}lr"], 1e-12)
        set_learning_rate(optimizer, rate)
        images, labels = arrays.tensor(f"{prefix}images"), arrays.tensor(f"{prefix}labels")
        check_choices(arrays, report, method, watch(method, images)[0]["visual.prompted"], prefix)
        terms = method.loss(Views(images, labels=labels))
        report.check(f"{prefix}loss", terms.total, arrays[f"{prefix}loss"])
        report.check(f"{prefix}logits", terms.logits, arrays[f"{prefix}logits"])
        optimizer.zero_grad()
        terms.backward()
        optimizer.step()
        parameters = method.trainable()
        for name, array in arrays.group(f"{prefix}param/").items():
            if name not in meta.get("no_gradient", ()):  # dead weights of the released code
                report.check(f"{prefix}param/{name}", parameters[from_released_name(name)], array)
    check_evaluation(arrays, report, method)


def check_evaluation(arrays: Arrays, report: Report, method: SEP) -> None:
    """Compare the logits of the trained model for the same images in other batches."""
    if "eval/images" not in arrays:
        return
    images = arrays.tensor("eval/images")
    batches = {
        "logits_batch": [images],
        "logits_reversed": [images.flip(0)],
        "logits_one_by_one": images.split(1),
        "logits_first_two": [images[:2]],
    }
    method.eval()
    with torch.no_grad():
        check_choices(arrays, report, method, watch(method, images)[0]["visual.prompted"], "eval/batch/")
        for name, parts in batches.items():
            if f"eval/{name}" in arrays:
                logits = torch.cat([method(part) for part in parts])
                report.check(f"eval/{name}", logits, arrays[f"eval/{name}"])
        report.check("eval/text_features_mixed", method.class_features(), arrays["eval/text_features_mixed"])


def sibling(arrays: Arrays):
    """The file that holds the weights of a ``*_train.npz``."""
    path = arrays.path.with_name(arrays.path.name.replace("_train", ""))
    return path if path.exists() and path != arrays.path else related_file(arrays.path, "sep_tiny.npz")


def check_protocol(arrays: Arrays, report: Report) -> None:
    """Learning rates, few-shot draws, class halves and image transforms."""
    for name, rates in arrays.group("lr_by_epoch/max_epoch_").items():
        ours = np.array([dassl_cosine(epoch, epochs=int(name), lr=2.5e-3) for epoch in range(int(name))])
        report.check(f"lr_by_epoch/max_epoch_{name}", ours, rates, 1e-12)
    items = {
        part: numbered_items(arrays[f"fewshot/{part}_labels"])
        for part in ("train", "val")
        if f"fewshot/{part}_labels" in arrays
    }
    draws = sorted({name.split("/")[1] for name in arrays if name.startswith("fewshot/seed")})
    for draw in draws:
        seed, shots = (int(number) for number in re.findall(r"\d+", draw))
        rng = random.Random(seed)
        for part, count in (("train", shots), ("val", min(shots, 4))):
            drawn = draw_shots(items[part], count, rng)
            report.check(f"fewshot/{draw}/{part}_index", numbers(drawn), arrays[f"fewshot/{draw}/{part}_index"])
    halves: tuple[Literal["base", "new"], ...] = ("base", "new")
    for half in halves:
        if f"subsample/{half}/index" in arrays:
            classes = tuple(f"class {i}" for i in range(1 + max(item.label for item in items["train"])))
            kept = select_base_new(Dataset("recorded", classes, items["train"]), half).train
            labels = np.array([item.label for item in kept])
            report.check(f"subsample/{half}/index", numbers(kept), arrays[f"subsample/{half}/index"])
            report.check(f"subsample/{half}/label", labels, arrays[f"subsample/{half}/label"])
    check_transforms(arrays, report)


def numbered_items(labels: np.ndarray) -> tuple[Item, ...]:
    """Items with recorded labels; their images are never read."""
    table = ImageTable("recorded", lambda index: None)
    return tuple(Item(IndexedSource(table, index), label) for index, label in enumerate(labels.tolist()))


def numbers(items: Sequence[Item]) -> np.ndarray:
    """Return the positions of the items in the recorded list."""
    return np.array([item.source.index for item in items if isinstance(item.source, IndexedSource)])


CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def check_transforms(arrays: Arrays, report: Report) -> None:
    """The evaluation transform, and the training transform under a seed."""
    if "transform/input_uint8_hwc" not in arrays:
        return
    image = Image.fromarray(arrays["transform/input_uint8_hwc"])
    for name, array in arrays.group("transform/").items():
        kind, _, rest = name.partition("_output_")
        if not rest:
            continue
        size, _, seed = rest.partition("_torchseed")
        preprocess = Preprocess(int(size), *CLIP_STATISTICS)
        if kind == "eval":
            ours = eval_transform(preprocess)(image)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(int(seed))
                ours = train_transform(preprocess)(image)
        report.check(f"transform/{name}", ours, array)


def checker(arrays: Arrays):
    """Return the function that compares a file; None for other files."""
    if any(name.startswith("clip/") for name in arrays):
        return check_step
    if any(name.startswith("step") for name in arrays):
        return check_training
    if any(name.startswith(("lr_by_epoch/", "fewshot/", "transform/")) for name in arrays):
        return check_protocol
    return None
