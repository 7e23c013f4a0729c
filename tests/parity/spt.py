"""Recorded SPT, VPT and GateVPT results."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfprompt.analysis.nmi import block_attention, information, raw_attention
from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import Backbone
from selfprompt.prompts.kmeans import cluster
from selfprompt.prompts.prototypes import Draw, gather, layer_tokens, pooling_windows
from selfprompt.prompts.record import Record
from selfprompt.prompts.static import Static
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.ema import Ema
from selfprompt.training.optim import build_optimizer, parameter_groups
from selfprompt.training.schedule import set_learning_rate, warmup_cosine
from tests.parity.rebuild import config_of, seeded_weights, vit_backbone, vit_weights
from tests.parity.report import FLOAT32, FLOAT64, Arrays, Report

# suffix of the arrays, type, tolerance
PRECISIONS = (("", torch.float32, FLOAT32), ("_f64", torch.float64, FLOAT64))


def prompted_method(backbone: Backbone, arrays: Arrays, config: Mapping[str, Any], dtype: torch.dtype) -> Method:
    """SPT with the recorded prompts and head."""
    prompts = arrays.tensor("prompt_token", dtype)
    average = config.get("global_pool", config["kind"].startswith("mae"))
    names = [f"class {i}" for i in range(config["num_classes"])]
    method = build_method(
        "spt",
        backbone,
        names,
        prompts=prompts.shape[1],
        deep=prompts.shape[0] > 1,
        pooling="avg" if average else "cls",
    ).to(dtype)
    weights = vit_weights(arrays)
    head = {f"head.{part}": torch.from_numpy(weights[f"head.{part}"]).to(dtype) for part in ("weight", "bias")}
    method.load_adapter_state_dict({"prompts": prompts, **head})
    return method


def check_forward(arrays: Arrays, report: Report) -> None:
    """``spt_fwd_*``: features, logits, loss, gradients, the streams around each block."""
    config = config_of(arrays)
    for suffix, dtype, tolerance in PRECISIONS:
        if f"logits{suffix}" not in arrays:
            continue
        backbone = vit_backbone(vit_weights(arrays), config, dtype)
        method = prompted_method(backbone, arrays, config, dtype)
        images = arrays.tensor("images", dtype)
        terms = method.loss(Views(images, labels=arrays.tensor("labels")))
        terms.backward()
        features = backbone.vision(images, Static(method.prompts), pooling=method.pooling)
        ours = {
            "logits": method(images),
            "loss": terms.total,
            "features": features,
            "grad_prompt_token": method.prompts.grad,
            "grad_head_weight": method.head.weight.grad,
            "grad_head_bias": method.head.bias.grad,
        }
        for name, value in ours.items():
            if name + suffix in arrays:
                report.check(name + suffix, value, arrays[name + suffix], tolerance)
        if not suffix and "block_in_img0" in arrays:
            record = Record(Static(method.prompts))
            backbone.vision(images[:1], record, pooling=method.pooling)
            report.check("block_in_img0", torch.stack([t.x[0] for t in record.inputs]), arrays["block_in_img0"])
            report.check("block_out_img0", torch.stack([t.x[0] for t in record.outputs]), arrays["block_out_img0"])
        report.same(f"frozen weights without gradient{suffix}", no_gradients(backbone), True)


def no_gradients(backbone: Backbone) -> bool:
    """Return whether no frozen tensor has a gradient buffer."""
    return all(p.grad is None and not p.requires_grad for p in backbone.vision.parameters())


def check_plain(arrays: Arrays, report: Report) -> None:
    """``spt_fwd_plain``: the backbone without prompts in each pooling."""
    config = config_of(arrays)
    poolings = {"cls": "cls", "mae_norm": "avg", "mae_norm_clspool": "cls", "mae_fcnorm": "avg"}
    for suffix, dtype, tolerance in PRECISIONS:
        weights = vit_weights(arrays)
        backbone = vit_backbone(weights, config, dtype)
        images = arrays.tensor("images", dtype)
        head = [torch.from_numpy(weights[f"head.{part}"]).to(dtype) for part in ("weight", "bias")]
        for tag, pooling in poolings.items():
            if f"features_{tag}{suffix}" in arrays:
                features = backbone.vision(images, pooling=pooling)
                name = f"features_{tag}{suffix}"
                report.check(name, features, arrays[name], tolerance)
                logits = torch.nn.functional.linear(features, *head)
                name = f"logits_{tag}{suffix}"
                report.check(name, logits, arrays[name], tolerance)


class RecordedImages:
    """A source of images without augmentation."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    @property
    def size(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int], draw: int = 0) -> Tensor:
        return self.images[list(indices)]


def check_prompts(arrays: Arrays, report: Report) -> None:
    """``spt_prompts*``: collected tokens, pooled candidates, selected rows, prompts."""
    config = config_of(arrays)
    backbone = vit_backbone(vit_weights(arrays), config, torch.float32)
    source = RecordedImages(arrays.tensor("images"))
    patches = layer_tokens(backbone.vision, source.images[:1], 0)[0].shape[1]
    for case in config["cases"]:
        tag, count = case["tag"], case["num_prompts"]
        places = tuple(arrays[f"{tag}.sample_idx"].tolist())
        rows = np.argsort(arrays[f"{tag}.noise"], axis=1, kind="stable")[:, :count]
        report.check(f"{tag}.keep_idx", rows, arrays[f"{tag}.keep_idx"])
        pooled = case["deep"] and case["strategy"].endswith("pooling")
        windows = pooling_windows(patches, count, released=True) if pooled else None
        pool = "max" if case["strategy"].startswith("max") else "mean"

        def take(rows: np.ndarray, places=places, windows=windows, pool=pool) -> Tensor:
            draw = Draw(places, torch.from_numpy(np.ascontiguousarray(rows)))
            return gather(backbone.vision, source, draw, windows=windows, pool=pool)

        report.check(f"{tag}.prompt", take(rows), arrays[f"{tag}.prompt"])
        if f"{tag}.tokens" in arrays:
            layers = layer_tokens(backbone.vision, source.images[list(places)], backbone.vision.depth - 1)
            report.check(f"{tag}.tokens", torch.stack(layers), arrays[f"{tag}.tokens"])
        if f"{tag}.candidates" in arrays:
            theirs = arrays[f"{tag}.candidates"]
            every = np.tile(np.arange(count * len(places)), (len(rows), 1))
            report.check(f"{tag}.candidates", take(every).reshape(theirs.shape), theirs)


def check_kmeans(arrays: Arrays, report: Report) -> None:
    """``spt_kmeans``: inertia of the centres against many restarts; a sample with one optimum."""
    config = config_of(arrays)
    backbone = vit_backbone(vit_weights(arrays), config, torch.float32)
    tokens = torch.stack(layer_tokens(backbone.vision, arrays.tensor("images"), backbone.vision.depth - 1))
    report.check("tokens", tokens, arrays["tokens"])
    for layer, points in enumerate(tokens.flatten(1, 2)):
        centres = cluster(points, config["K"])
        ratio = inertia(points, centres) / float(arrays["best_inertia"][layer])
        report.require(f"inertia ratio, layer {layer}", ratio, 1.08)
    blobs = arrays.tensor("blobs")
    theirs = arrays.tensor("blob_centers")
    centres = cluster(blobs, len(theirs))
    nearest = torch.cdist(theirs, centres).argmin(dim=1)
    report.same("blob centres matched one to one", sorted(nearest.tolist()), list(range(len(theirs))))
    report.check("blob_centers", centres[nearest], theirs, 1e-4)
    report.check("blob_inertia", inertia(blobs, centres), arrays["blob_inertia"], 0, relative=1e-3)


def inertia(points: Tensor, centres: Tensor) -> float:
    """Sum of squared distances to the nearest centre."""
    return float(torch.cdist(points.double(), centres.double()).min(dim=1).values.square().sum())


def check_schedule(arrays: Arrays, report: Report) -> None:
    """``spt_lr_schedule``: warm-up and cosine per iteration, with the factor of a group."""
    for number, case in enumerate(config_of(arrays)["cases"]):
        steps = case["steps_per_epoch"]
        options = {name: case[name] for name in ("lr", "min_lr", "warmup_epochs", "epochs")}
        times = [step / steps for step in range(case["epochs"] * steps)]
        rates = np.array([warmup_cosine(time, **options) for time in times])
        report.check(f"lr_{number}", rates, arrays[f"lr_{number}"], 1e-12)
        groups = np.array([group_rates(rate) for rate in rates])
        report.check(f"group_lr_{number}", groups, arrays[f"group_lr_{number}"], 1e-12)


def group_rates(rate: float) -> list[float]:
    """Return the rates of an optimiser's plain group and of one with a factor of 0.25."""
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr_scale": 0.25}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimizer, rate)
    return [group["lr"] for group in optimizer.param_groups]


TRAIN = {"optimizer": "adamw", "decay": "weights", "schedule": "warmup_cosine", "eps": 1e-8}


def check_training(arrays: Arrays, report: Report) -> None:
    """``spt_train_*``: 20 steps of the published loop, and its EMA."""
    config = config_of(arrays)
    for suffix, dtype, tolerance in PRECISIONS:
        if f"loss{suffix}" not in arrays or f"snap_prompt_token{suffix}" not in arrays:
            continue
        backbone = vit_backbone(vit_weights(arrays), config, dtype)
        method = prompted_method(backbone, arrays, config, dtype)
        run = run_training(method, arrays, config, dtype)
        loss_tolerance = tolerance if suffix else FLOAT32
        for name in ("lr", "loss", "grad_norms"):
            if name + suffix in arrays:
                bound = 1e-12 if name == "lr" else loss_tolerance
                report.check(name + suffix, run[name], arrays[name + suffix], bound)
        for name, value in run.items():
            if name.startswith(("snap_", "final_")) and name + suffix in arrays:
                # The recorded EMA also averages frozen weights, whose rounding drifts.
                bound = 5e-5 if name == "final_ema_logits_batch0" and not suffix else tolerance
                report.check(name + suffix, value, arrays[name + suffix], bound)


def run_training(method: Method, arrays: Arrays, config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Losses, gradient norms and snapshots of a run over the recorded batches."""
    hyper = config["hyper"]
    options = TrainOptions(
        **TRAIN,
        lr=hyper["lr"],
        weight_decay=hyper["weight_decay"],
        head_weight_decay=hyper["wd_head"],
        epochs=hyper["epochs"],
        warmup_epochs=hyper["warmup_epochs"],
        min_lr=hyper["min_lr"],
    )
    optimizer = build_optimizer(method.trainable().items(), options)
    ema = Ema(method.trainable(), hyper["ema_decay"])
    names = {"prompts": "prompt_token", "head.weight": "head_weight", "head.bias": "head_bias"}
    out: dict[str, list] = {"lr": [], "loss": [], "grad_norms": []}
    images, labels = arrays.tensor("images", dtype), arrays.tensor("labels")
    for step in range(len(arrays["loss"])):
        epoch, inside = divmod(step, config["steps_per_epoch"])
        rate = warmup_cosine(
            epoch + inside / config["steps_per_epoch"],
            **{name: hyper[name] for name in ("lr", "min_lr", "warmup_epochs", "epochs")},
        )
        set_learning_rate(optimizer, rate)
        terms = method.loss(Views(images[inside], labels=labels[inside]))
        optimizer.zero_grad()
        terms.backward()
        out["lr"].append(rate)
        out["loss"].append(terms.total.item())
        out["grad_norms"].append([method.trainable()[name].grad.norm().item() for name in names])
        optimizer.step()
        ema.update(method.trainable())
        if step + 1 in config["snap_steps"]:
            for ours, theirs in names.items():
                out.setdefault(f"snap_{theirs}", []).append(method.trainable()[ours].detach().clone())
                out.setdefault(f"snap_ema_{theirs}", []).append(ema.average[ours].clone())
    result: dict[str, Any] = {
        name: torch.stack(values) if name.startswith("snap") else np.array(values) for name, values in out.items()
    }
    with torch.no_grad():
        result["final_logits_batch0"] = method(images[0])
        with ema.applied(method):
            result["final_ema_logits_batch0"] = method(images[0])
    return result


def check_family(arrays: Arrays, report: Report) -> None:
    """``spt_family_*``: VPT and GateVPT, forward and backward."""
    config = config_of(arrays)
    for suffix, dtype, tolerance in PRECISIONS:
        if f"logits{suffix}" not in arrays:
            continue
        weights = vit_weights(arrays)
        backbone = vit_backbone(weights, config, dtype)
        method, pairs = family_method(backbone, arrays, config, dtype)
        head = [torch.from_numpy(weights[f"head.{part}"]).to(dtype) for part in ("weight", "bias")]
        method.load_adapter_state_dict({**pairs, "head.weight": head[0], "head.bias": head[1]})
        images = arrays.tensor("images", dtype)
        features: list[Tensor] = []
        method.head.register_forward_hook(lambda _, inputs, __, kept=features: kept.append(inputs[0]))
        terms = method.loss(Views(images, labels=arrays.tensor("labels")))
        terms.backward()
        gradients = {name: p.grad for name, p in method.trainable().items()}
        ours = {
            "features": features[0],
            "logits": method(images),
            "loss": terms.total,
            "grad_head_weight": gradients["head.weight"],
            "grad_head_bias": gradients["head.bias"],
            "grad_prompt_embeddings": gradients["prompts"][:1],
            "grad_deep_prompt_embeddings": gradients["prompts"][1:],
            "grad_gate_logit": gradients.get("gates"),
            "grad_temp": gradients.get("temperatures"),
        }
        for name, value in ours.items():
            if name + suffix in arrays:
                report.check(name + suffix, value, arrays[name + suffix], tolerance)


def family_method(
    backbone: Backbone, arrays: Arrays, config: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Method, dict[str, Tensor]]:
    """The method and its recorded tensors without the head."""
    names = [f"class {i}" for i in range(config["num_classes"])]
    poolings = {"original": "avg" if config["backbone"] == "mae" else "cls", "imgprompt_pool": "avg"}
    poolings |= {"img_pool": "patches", "prompt_pool": "prompts"}
    options = {"pooling": poolings[config.get("pool", "original")], "dropout": 0.0}
    prompts = arrays.tensor("prompt_embeddings", dtype)
    options["prompts"] = prompts.shape[1]
    if config["method"] == "gatevpt":
        method = build_method("gatevpt", backbone, names, **options).to(dtype)
        gates, temperatures = arrays.tensor("gate_logit", dtype), arrays.tensor("temp", dtype)
        return method, {"prompts": prompts, "gates": gates, "temperatures": temperatures}
    deep = "deep_prompt_embeddings" in arrays
    if deep:
        prompts = torch.cat([prompts, arrays.tensor("deep_prompt_embeddings", dtype)])
    method = build_method("vpt", backbone, names, deep=deep, **options).to(dtype)
    return method, {"prompts": prompts}


def check_nmi(arrays: Arrays, report: Report) -> None:
    """``spt_nmi``: information between prompts and tokens, plain and through a block's projections."""
    config = config_of(arrays)
    prompts, tokens = arrays.tensor("prompt", torch.float64), arrays.tensor("tokens", torch.float64)
    block = vit_backbone(vit_weights(arrays), config, torch.float64).vision.vit.blocks[config["layer"]]
    attention = raw_attention(prompts, tokens)
    raw = information(attention)
    through = block_attention(prompts, tokens, block.norm1, block.attn.qkv, config["num_heads"])
    qk = information(through)
    ours = {
        "raw_attn": attention,
        "raw_mi": raw.mutual,
        "raw_h_prompt": raw.prompts[0],
        "raw_h_token": raw.tokens,
        "raw_nmi": raw.normalised(),
        "raw_nmi_arith": raw.normalised("arithmetic"),
        "qk_attn": through,
        "qk_mi": qk.mutual,
        "qk_h_token": qk.tokens,
        "qk_nmi": qk.normalised(),
        "qk_nmi_mean": qk.normalised().mean(),
    }
    for edge in ("edge_uniform", "edge_identity"):
        ours[f"{edge}_nmi"] = information(arrays.tensor(edge, torch.float64)).normalised()
    for name, value in ours.items():
        if name in arrays:
            report.check(name, value, arrays[name], FLOAT64)


def check_full_size(arrays: Arrays, report: Report) -> None:
    """``spt_vitb16_*``: a full-size model whose weights follow from a recipe."""
    config = config_of(arrays)
    seed, names = config["seed"], [str(name) for name in arrays["weight_names"]]
    probe = vit_shapes(config)
    weights = seeded_weights(names, probe, seed)
    sums = np.array([weights[name].astype(np.float64).sum() for name in names])
    report.check("weight_sums", sums, arrays["weight_sums"], 1e-3)
    size, patches = config["img_size"], (config["depth"], config["num_prompts"], config["embed_dim"])
    images = np.random.default_rng([seed, 777]).standard_normal((config["batch"], 3, size, size)).astype(np.float32)
    prompts = (0.6 * np.random.default_rng([seed, 779]).standard_normal(patches)).astype(np.float32)
    report.check("images_sum", images.astype(np.float64).sum(), arrays["images_sum"], 1e-3)
    report.check("prompt_sum", prompts.astype(np.float64).sum(), arrays["prompt_sum"], 1e-3)
    backbone = vit_backbone(weights, config, torch.float32)
    pooling = "avg" if config["kind"].startswith("mae") else "cls"
    classes = [f"class {i}" for i in range(config["num_classes"])]
    method = build_method("spt", backbone, classes, prompts=config["num_prompts"], pooling=pooling)
    head = {f"head.{part}": torch.from_numpy(weights[f"head.{part}"]) for part in ("weight", "bias")}
    method.load_adapter_state_dict({"prompts": torch.from_numpy(prompts), **head})
    record = Record(Static(method.prompts))
    features = backbone.vision(torch.from_numpy(images), record, pooling=pooling)
    logits = method.head(features)
    loss = torch.nn.functional.cross_entropy(logits, arrays.tensor("labels"))
    loss.backward()
    report.check("features", features, arrays["features"], 2e-5)
    report.check("logits", logits, arrays["logits"], 2e-5)
    report.check("loss", loss, arrays["loss"], 2e-5)
    gradient = method.prompts.grad
    report.check("grad_prompt_layer_norms", gradient.flatten(1).norm(dim=1), arrays["grad_prompt_layer_norms"], 2e-5)
    report.check("grad_prompt_first", gradient[:, 0, :64], arrays["grad_prompt_first"], 2e-5)
    report.check("grad_head_weight_norm", method.head.weight.grad.norm(), arrays["grad_head_weight_norm"], 2e-5)
    rows = torch.stack([stream.x[0, 0, :64] for stream in record.outputs])
    report.check("block_out_cls_img0", rows, arrays["block_out_cls_img0"], 2e-5)
    trainable = sum(p.numel() for p in method.trainable().values())
    report.same("trainable parameters", trainable, config["trainable"])
    frozen = sum(p.numel() for p in backbone.vision.parameters())
    report.same("all parameters", trainable + frozen, config["total"])


def vit_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a plain ViT's weights."""
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        vit = VisionTransformer(
            config["img_size"],
            config["patch_size"],
            embed_dim=config["embed_dim"],
            depth=config["depth"],
            num_heads=config["num_heads"],
            mlp_ratio=config["mlp_ratio"],
            num_classes=config["num_classes"],
        )
    return {name: tuple(tensor.shape) for name, tensor in vit.state_dict().items()}


def check_groups(path: Path, report: Report) -> None:
    """``spt_param_groups.json``: names, sizes and decay of the optimiser's groups."""
    recorded = json.loads(path.read_text())
    config = recorded["config"]
    for kind, groups in recorded["groups"].items():
        method = group_method(kind, groups, config)
        decay, head_decay = groups[1]["weight_decay"], groups[2]["weight_decay"]
        options = TrainOptions(**TRAIN, weight_decay=decay, head_weight_decay=head_decay)
        ours = parameter_groups(method.trainable().items(), options)
        names = {id(p): recorded_name(name) for name, p in method.trainable().items()}
        report.same(f"{kind}: number of groups", len(ours), len(groups))
        for number, (group, theirs) in enumerate(zip(ours, groups, strict=True)):
            report.same(
                f"{kind}: group {number} names",
                sorted(names[id(p)] for p in group["params"]),
                sorted(theirs["names"]),
            )
            report.same(f"{kind}: group {number} elements", sum(p.numel() for p in group["params"]), theirs["numel"])
            report.check(f"{kind}: group {number} decay", group["weight_decay"], theirs["weight_decay"], 0)


def group_method(kind: str, groups: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Method:
    """The method whose groups were recorded."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in vit_shapes(config).items()}
    backbone = vit_backbone(weights, config, torch.float32)
    names = [f"class {i}" for i in range(config["num_classes"])]
    if "full" in kind:
        return build_method("full", backbone, names)
    if "linear" in kind:
        return build_method("linear", backbone, names)
    deep = kind.endswith("deep")
    per_prompt = config["embed_dim"] * (config["depth"] if deep else 1)
    return build_method("spt", backbone, names, deep=deep, prompts=groups[1]["numel"] // per_prompt)


def recorded_name(name: str) -> str:
    """The recorded name of one of our parameters."""
    return "prompt_token" if name == "prompts" else name.removeprefix("vision.vit.")


def checker(arrays: Arrays) -> Callable[[Arrays, Report], None] | None:
    """Return the function that compares a file; None for other files."""
    rules: list[tuple[tuple[str, ...], Callable[[Arrays, Report], None]]] = [
        (("weight_sums", "prompt_sum"), check_full_size),
        (("best_inertia",), check_kmeans),
        (("lr_0", "group_lr_0"), check_schedule),
        (("raw_attn",), check_nmi),
        (("prompt_embeddings",), check_family),
        (("prompt_token", "logits"), check_forward),
        (("features_cls",), check_plain),
    ]
    if "snap_prompt_token" in arrays:
        return check_training
    if any(name.endswith(".sample_idx") for name in arrays):
        return check_prompts
    return next((check for names, check in rules if all(name in arrays for name in names)), None)


def loads(arrays: Arrays) -> bool:
    """Return whether a file with weights only loads into a backbone."""
    return vit_backbone(vit_weights(arrays), config_of(arrays), torch.float32).vision.depth > 0
