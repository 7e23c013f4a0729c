"""Recorded heads on frozen features of a CLIP that start from the class texts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.methods import ape, clap, proker, prolip, semobridge, ss_text, tipx
from selfprompt.methods.heads import unit
from tests.parity.rebuild import config_of, related_file
from tests.parity.report import FLOAT32, FLOAT64, Arrays, Report

INPUTS = "heads_inputs.npz"
SCALE = 100.0
MISSING = 2  # the class that the case "missing" lacks
# suffix of the arrays, type, fraction of an array's largest entry that ours may be off
PRECISIONS = (("_f32", torch.float32, 5e-5), ("_f64", torch.float64, FLOAT64))
Check = Callable[[Arrays, Report], None]


class Inputs:
    """Inputs of the heads, in one precision, from the file next to a recorded one.

    Attributes:
        texts: Unit class features, (C, D); ``raw_texts`` are means of features that are not normalised.
        test: Unit features of the test images; ``raw_test`` and ``raw_support`` are not normalised.
        labels: Of the training images with equally many a class.
        keys: Unit means over the views of these images.
        cases: By name, the unit features and labels of the training images.
    """

    def __init__(self, arrays: Arrays, dtype: torch.dtype) -> None:
        inputs = Arrays(related_file(arrays.path, INPUTS))
        templates = inputs.tensor("text_templates", dtype)
        self.raw_texts = templates.mean(dim=1)
        self.texts = unit(unit(templates).mean(dim=1))
        self.test = unit(inputs.tensor("test", dtype))
        support, labels = inputs.tensor("support", dtype), inputs.tensor("support_labels")
        self.raw_support, self.raw_test = support, inputs.tensor("test", dtype)
        views, rows = inputs.tensor("support_views", dtype), inputs.tensor("unbalanced_index")
        self.labels = labels
        self.keys = unit(views.mean(dim=0))
        present = rows[labels[rows] != MISSING]
        self.cases: dict[str, tuple[Tensor, Tensor]] = {
            "plain": (unit(support), labels),
            "views": (unit(views.flatten(0, 1)), labels.repeat(len(views))),
            "unbalanced": (unit(support[rows]), labels[rows]),
            "missing": (unit(support[present]), labels[present]),
        }


def compare(report: Report, arrays: Arrays, name: str, ours: object, tolerance: float) -> None:
    """Note how far ours is from a recorded array: the smaller of an absolute and a relative difference counts."""
    report.check(name, ours, arrays[name], min(tolerance, FLOAT32), tolerance)


def check_inputs(arrays: Arrays, report: Report) -> None:
    """``heads_inputs``: there is nothing to compare; the other files read it."""
    lengths = [(len(features), len(labels)) for features, labels in Inputs(arrays, torch.float32).cases.values()]
    report.same("inputs only: as many labels as features", *zip(*lengths, strict=True))


def check_clap(arrays: Arrays, report: Report) -> None:
    """``clap``: zero-shot confidences, vectors of the classes after some passes, losses and logits."""
    compare(report, arrays, "lr", clap.cosine_rates(len(arrays["lr"]), config_of(arrays)["lr"]), FLOAT64)
    for suffix, dtype, tolerance in PRECISIONS:
        inputs, end = Inputs(arrays, dtype), f".weights_epoch1{suffix}"
        for name in [name.removesuffix(end) for name in arrays if name.endswith(end)]:
            case, _, kind = name.partition(".")
            start, constraint, text = kind.split("_")
            features, labels = inputs.cases["views" if case == "plain" else case]
            texts = inputs.raw_texts if text == "raw" else inputs.texts
            pulls = clap.zero_shot_confidence(features, labels, unit(texts), SCALE)
            if constraint == "l2":
                compare(report, arrays, f"{case}.class_weight_{text}{suffix}", pulls, tolerance)
            run = ClapRun(name, suffix, residual=0.5 if start == "tr" else 1.0)
            run.check(arrays, report, tolerance, features, labels, texts, pulls if constraint == "l2" else None)
            if f"{name}.logits{suffix}" in arrays:
                logits = SCALE * inputs.test @ unit(run.weight).t()
                compare(report, arrays, f"{name}.logits{suffix}", logits, tolerance)


@dataclass
class ClapRun:
    """A recorded training. TaskRes trains x of ``texts + residual x``, which is a smaller rate for their sum."""

    name: str
    suffix: str
    residual: float
    weight: Tensor = field(init=False)

    def check(
        self,
        arrays: Arrays,
        report: Report,
        tolerance: float,
        features: Tensor,
        labels: Tensor,
        texts: Tensor,
        pulls: Tensor | None,
    ) -> None:
        """Train on the recorded rows as far as vectors were recorded."""
        case, end = self.name.partition(".")[0], self.suffix
        epochs = {int(key.removesuffix(end)) for key in arrays.group(f"{self.name}.weights_epoch") if end in key}
        order = arrays.tensor(f"{case}.order").long()[: max(epochs)]
        batch = config_of(arrays)["batch"][case]
        orders = (rows.split(order.shape[1] if batch == "all" else batch) for rows in order)
        rates = (self.residual**2 * arrays["lr"][: len(order)]).tolist()
        self.weight, losses = texts.clone(), []
        steps = clap.descend(self.weight, features, labels, rates, orders, scale=SCALE, pulls=pulls)
        for epoch, values in enumerate(steps, start=1):
            losses += values
            if epoch in epochs:
                ours = self.weight.detach() if self.residual == 1 else (self.weight.detach() - texts) / self.residual
                compare(report, arrays, f"{self.name}.weights_epoch{epoch}{end}", ours, tolerance)
        if f"{self.name}.losses{end}" in arrays:
            compare(report, arrays, f"{self.name}.losses{end}", losses, tolerance)


def check_proker(arrays: Arrays, report: Report) -> None:
    """``proker``: logits, without a scale, for each pair of constants, and the kernel."""
    constants = config_of(arrays)["beta_lambda"]
    for suffix, dtype, tolerance in PRECISIONS:
        inputs = Inputs(arrays, dtype)
        for name in [name for name in arrays if name.endswith(suffix)]:
            case, _, kind = name.removesuffix(suffix).partition(".logits_")
            if not kind:
                plain, beta = inputs.cases["plain"][0], float(case.removeprefix("kernel_beta"))
                compare(report, arrays, name, proker.kernel(inputs.test, plain, beta), tolerance)
                continue
            features, labels = inputs.cases[case]
            beta, strength = constants[kind]
            values = proker.regress(features, labels, inputs.texts, beta, strength)
            ours = inputs.test @ inputs.texts.t() + proker.kernel(inputs.test, features, beta) @ values
            compare(report, arrays, name, ours, tolerance)


def check_sstext(arrays: Arrays, report: Report) -> None:
    """``sstext``: vectors of the classes and logits; ``shots_only`` is SS-Text+ without repulsion, from SS-Text."""
    for suffix, dtype, tolerance in PRECISIONS:
        inputs = Inputs(arrays, dtype)
        for name in [name for name in arrays if name.endswith(f".weights{suffix}")]:
            case, kind, _ = name.split(".")
            features, labels = inputs.cases[case]
            ours = ss_text.solve(features, labels, inputs.texts, SCALE, plus=kind == "ss_text_plus")
            if kind == "shots_only":
                counts = torch.bincount(labels, minlength=len(ours))[:, None]
                ours = inputs.texts + (ours - inputs.texts) * counts / len(labels)
            compare(report, arrays, name, ours, tolerance)
            logits = SCALE * inputs.test @ unit(ours).t()
            compare(report, arrays, name.replace(".weights_", ".logits_"), logits, tolerance)


def check_prolip(arrays: Arrays, report: Report) -> None:
    """``prolip``: the projection after some runs, the losses of their last step, and logits."""
    for suffix, dtype, tolerance in PRECISIONS:
        inputs, end = Inputs(arrays, dtype), f".proj{suffix}"
        views, test = arrays.tensor("views_before", dtype), arrays.tensor("test_before", dtype)
        shots = len(inputs.labels) / len(inputs.texts)
        for name in [name.removesuffix(end) for name in arrays if name.endswith(end)]:
            steps, rate = name.removeprefix("e").split("_lr")
            projection = arrays.tensor("proj_init", dtype)
            rates = prolip.cosine_rates(int(steps), float(rate))
            training = prolip.descend(
                projection, views, inputs.labels, inputs.texts, rates, scale=SCALE, strength=1 / shots
            )
            *_, (entropy, distance) = training
            compare(report, arrays, f"{name}{end}", projection, tolerance)
            compare(report, arrays, f"{name}.loss_ce{suffix}", entropy, tolerance)
            compare(report, arrays, f"{name}.loss_mse{suffix}", distance, tolerance)
            logits = SCALE * unit(test @ projection) @ inputs.texts.t()
            compare(report, arrays, f"{name}.logits{suffix}", logits, tolerance)


def check_ape(arrays: Arrays, report: Report) -> None:
    """``ape``: channels, weights and logits of APE, and a few steps of APE-T with AdamW."""
    config = config_of(arrays)["cfg"]
    for suffix, dtype, tolerance in PRECISIONS:
        inputs = Inputs(arrays, dtype)
        keys, labels, texts = inputs.keys, inputs.labels, inputs.texts
        similarity = ape.channel_similarity(keys, labels, texts)
        compare(report, arrays, f"channel_similarity{suffix}", similarity, tolerance)
        chosen = ape.select_channels(similarity, texts, config["w_training_free"][1], config["training_free_feat_num"])
        compare(report, arrays, f"ape.indices{suffix}", chosen, tolerance)
        inside = unit(keys[:, chosen])
        surprise = ape.surprise_of(inside, labels, unit(texts[:, chosen]))
        compare(report, arrays, f"ape.cache_div{suffix}", surprise[:, None], tolerance)
        affinity = unit(inputs.test[:, chosen]) @ inside.t()
        found = [float(arrays[f"ape.best_{name}{suffix}"]) for name in ("alpha", "beta", "gamma")]
        start = [config[f"init_{name}"] for name in ("alpha", "beta", "gamma")]
        for name, (alpha, beta, gamma) in (("ape.logits_init", start), ("ape.logits", found)):
            values = F.one_hot(labels).to(dtype) * (gamma * surprise).exp()[:, None]
            logits = SCALE * inputs.test @ texts.t() + alpha * ape.cached(affinity, values, beta)
            compare(report, arrays, f"{name}{suffix}", logits, tolerance)
        check_ape_training(arrays, report, inputs, config, suffix, tolerance)


def check_ape_training(
    arrays: Arrays, report: Report, inputs: Inputs, config: dict[str, Any], suffix: str, tolerance: float
) -> None:
    """APE-T's steps on the training images without views, as one batch; the cosine has twice their number."""
    name, texts, labels = "apet.top_k_fixed", inputs.texts, inputs.labels
    similarity = ape.channel_similarity(inputs.keys[:0], labels[:0], texts)  # of the texts alone
    chosen = ape.select_channels(similarity, texts, config["w_training"][1], config["training_feat_num"])
    compare(report, arrays, f"{name}.indices{suffix}", chosen, tolerance)
    shift = texts.new_zeros(len(texts), len(chosen)).requires_grad_()
    weights = texts.new_ones(len(labels), 1).requires_grad_()
    steps, losses = len(arrays[f"{name}.losses{suffix}"]), []
    optimizer = torch.optim.AdamW([shift, weights], lr=config["lr"], eps=config["eps"], weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * steps)

    def scores(features: Tensor) -> Tensor:
        moved, keys = ape.shifted(texts, inputs.keys, labels, chosen, shift)
        cache = ape.cached(features @ keys.t(), F.one_hot(labels) * weights, config["init_beta"])
        return SCALE * features @ moved.t() + config["init_alpha"] * cache

    for _ in range(steps):
        loss = F.cross_entropy(scores(inputs.cases["plain"][0]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    compare(report, arrays, f"{name}.losses{suffix}", losses, tolerance)
    compare(report, arrays, f"{name}.res{suffix}", shift, tolerance)
    compare(report, arrays, f"{name}.value_weights{suffix}", weights, tolerance)
    compare(report, arrays, f"{name}.logits{suffix}", scores(inputs.test), tolerance)


def check_tipx(arrays: Arrays, report: Report) -> None:
    """``tipx``: distributions, divergences, and logits with the ranges of the recorded test images.

    Ours are in float64 for both precisions: a divergence is a small difference of large numbers.
    """
    inputs = Inputs(arrays, torch.float64)
    keys, test, texts = inputs.keys, inputs.test, inputs.texts
    values = F.one_hot(inputs.labels).double()
    for suffix, _, tolerance in PRECISIONS:
        for name, features in (("train", keys), ("test", test)):
            ours = tipx.scores(features, texts).softmax(dim=1)
            compare(report, arrays, f"{name}_distribution{suffix}", ours, tolerance)
        kl, cosines = tipx.divergence(test, keys, tipx.level(tipx.scores(keys, texts)), texts), test @ keys.t()
        compare(report, arrays, f"kl{suffix}", kl, tolerance)
        ranges = [torch.stack(values.aminmax()) for values in (kl, cosines)]
        affinity = -tipx.rescale(kl, *ranges)
        compare(report, arrays, f"affinity{suffix}", affinity, tolerance)
        for name in [name for name in arrays if name.startswith("logits_") and name.endswith(suffix)]:
            alpha, beta, gamma = (float(part[1:]) for part in name.removesuffix(suffix).split("_")[1:])
            cache = alpha * (beta * (cosines - 1)).exp() + gamma * affinity
            compare(report, arrays, name, SCALE * test @ texts.t() + cache @ values, tolerance)


def check_semobridge(arrays: Arrays, report: Report) -> None:
    """``semobridge``: the inverse, similarities and scores at the start, and twenty steps with and without bias."""
    for suffix, dtype, tolerance in PRECISIONS:
        inputs, projection = Inputs(arrays, dtype), arrays.tensor("text_projection", dtype)
        states = arrays.tensor("text_encoded_templates", dtype)
        texts = semobridge.Texts(
            unit(unit(states @ projection).mean(dim=1)), unit(unit(states).mean(dim=1)), projection
        )
        inverse = semobridge.invert(projection)
        compare(report, arrays, f"inverse{suffix}", inverse, tolerance)
        means = unit(semobridge.class_means(inputs.raw_support, inputs.labels, len(states)))
        surprise = semobridge.surprise_of(means, texts.features)
        compare(report, arrays, f"divergence{suffix}", surprise[:, None], tolerance)
        for case in ("plain", "csb"):
            check_bridge(arrays, report, f"{case}.start", suffix, inputs, texts, inverse, None, tolerance)
            trained = inverse.clone()
            bias = projection.new_zeros(len(states), len(projection)) if case == "csb" else None
            steps = semobridge.descend(
                trained, bias, inputs.raw_support, inputs.labels, texts, [2e-3] * 20, scale=SCALE
            )
            losses = []
            for step, loss in enumerate(steps, start=1):
                losses.append(loss)
                name = f"{case}.step{step}"
                if f"{name}.inverse{suffix}" in arrays:
                    compare(report, arrays, f"{name}.inverse{suffix}", trained, tolerance)
                if f"{name}.class_bias{suffix}" in arrays:
                    loose = 2e-4 if dtype == torch.float32 else tolerance
                    report.check(f"{name}.class_bias{suffix}", bias, arrays[f"{name}.class_bias{suffix}"], loose, loose)
            compare(report, arrays, f"{case}.losses{suffix}", losses, tolerance)
            check_bridge(arrays, report, f"{case}.step20", suffix, inputs, texts, trained, bias, tolerance)


def check_bridge(
    arrays: Arrays,
    report: Report,
    name: str,
    suffix: str,
    inputs: Inputs,
    texts: semobridge.Texts,
    inverse: Tensor,
    bias: Tensor | None,
    tolerance: float,
) -> None:
    """The bridged classes, the three similarities and the scores of the test images."""
    support, labels, classes = inputs.raw_support, inputs.labels, len(texts.features)
    means = unit(semobridge.class_means(support, labels, classes))
    states = semobridge.bridge(support, inverse, None if bias is None else bias[labels])
    bridged = unit(semobridge.class_means(states, labels, classes) @ texts.projection)
    image = unit(semobridge.bridge(inputs.raw_test, inverse) @ texts.projection) @ means.t()
    similarities = inputs.test @ texts.features.t(), inputs.test @ bridged.t(), image
    weights = (0.01 * semobridge.surprise_of(means, texts.features)).exp()
    compare(report, arrays, f"{name}.bridged_classes{suffix}", bridged, tolerance)
    for part, ours in zip(("z1", "z2", "z3"), similarities, strict=True):
        compare(report, arrays, f"{name}.{part}{suffix}", ours, tolerance)
    scores = semobridge.blend(similarities, weights, (1.0, 1.0, 1.0), (0.5, 0.5, 0.5))
    compare(report, arrays, f"{name}.logits{suffix}", scores, tolerance)


CHECKS: dict[str, Check] = {  # by the method that a file names
    "ZS-LP, CLAP, TaskRes": check_clap,
    "ProKeR": check_proker,
    "APE, APE-T": check_ape,
    "ProLIP": check_prolip,
    "SeMoBridge(-T)": check_semobridge,
    "SS-Text": check_sstext,
    "Tip-X": check_tipx,
}


def checker(arrays: Arrays) -> Check | None:
    """The check for a file of this family; None for others."""
    if "support_views" in arrays:
        return check_inputs
    return CHECKS.get(config_of(arrays).get("method", "")) if "meta_json" in arrays else None
