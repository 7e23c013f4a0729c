"""``selfprompt demo``: runs everything once on small images, with the backbones of the package."""

import random
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output, table
from selfprompt.cli.usage import check_at_least, usage
from selfprompt.reports.accuracy import ACCURACY_COLUMNS, accuracy_cells

if TYPE_CHECKING:
    from selfprompt.data.dataset import Dataset, Item
    from selfprompt.data.suites.task import SuiteTask
    from selfprompt.inference.classifier import Classifier
    from selfprompt.metrics import Metrics
    from selfprompt.models.loading.by_name import Backbone
    from selfprompt.reports.demo_page import DemoResults, UnseenPrediction

Entry = TypeVar("Entry")

SUITE, TASK = "embedded", "embedded/objects"
CLIP, MAE = "embedded/clip", "embedded/mae"

# Training settings for the small backbones; the recipes suit full-size ones. ``views`` is training images times epochs,
# so that the demo takes the same time for any number of classes and shots.
SEP: dict[str, Any] = {
    "method": "sep",
    "backbone": CLIP,
    "classes": "base",
    "views": 1600,
    "lr": 6e-3,
    "batch_size": 16,
    "augment": "none",
}
# The same settings for all three, so that only the method differs.
HEADS: dict[str, Any] = {
    "backbone": MAE,
    "statistics": "backbone",
    "views": 2240,
    "optimizer": "adamw",
    "lr": 2e-2,
    "schedule": "warmup_cosine",
    "warmup_epochs": 1,
    "decay": "weights",
    "weight_decay": 1e-2,
    "head_weight_decay": 1e-2,
    "batch_size": 16,
    "augment": "none",
}
METHODS: dict[str, dict[str, Any]] = {
    "linear probe": {"method": "linear"},
    "VPT-deep": {"method": "vpt-deep", "options": {"prompts": 10, "dropout": 0.0}},
    "SPT-deep": {"method": "spt-deep", "options": {"prompts": 10}},
}
TEST_IMAGES = 400
"""Test images per task, drawn at random."""
SHOWN = 16
"""Test images to show on the page."""
FAST = {"views": 0, "test": 40}
"""With --fast: two epochs per training, and fewer test images."""

RECORD, PAGE, PICTURE, UNSEEN = "demo.json", "index.html", "demo.png", "unseen"
CLASSIFIERS = (SEP["method"], *(run["method"] for run in METHODS.values()))
WRITTEN = (*CLASSIFIERS, UNSEEN, PAGE, PICTURE, RECORD)
"""Files and folders that the demo writes; it never replaces others."""


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=str, default="demo-output", help="output folder for the page and the classifiers")
    parser.add_argument("--task", type=str, default=TASK, help="task of the embedded suite to tune on")
    parser.add_argument("--shots", type=int, default=8, help="training images per class")
    parser.add_argument("--seed", type=int, default=1, help="seed of every random choice")
    parser.add_argument("--fast", action="store_true", help="train for two epochs only, to see that everything works")


def demo(options: Namespace) -> int:
    """Run the command."""
    check_at_least(options, 1, "shots")
    from selfprompt.data.suites import load_task

    start = time.monotonic()
    with usage():
        task = load_task(options.task if "/" in options.task else f"{SUITE}/{options.task}")
    out = prepare_folder(Path(options.out))
    output = Output()
    results = run_demo(task, out, options, output)
    write(replace(results, seconds=time.monotonic() - start), out)
    output.message("")
    output.message(f"Picture: {(out / PICTURE).resolve()}")
    output.message(f"Page:    {(out / PAGE).resolve()}")
    return 0


def prepare_folder(out: Path) -> Path:
    """Mark the folder as a demo's and remove an earlier page; other files are replaced one by one.

    Raises:
        ValueError: If it contains a file of a name that the demo writes, but is not a demo's folder.
    """
    from selfprompt.utils.files import write_json

    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file. Choose another folder with --out.")
    present = [name for name in WRITTEN if (out / name).exists()]
    if present and RECORD not in present:
        raise ValueError(f"{out} contains {present[0]}, which no demo wrote. Choose another folder with --out.")
    write_json(out / RECORD, {"finished": False})
    for name in (PAGE, PICTURE):
        (out / name).unlink(missing_ok=True)
    return out


def run_demo(task: "SuiteTask", out: Path, options: Namespace, output: Output) -> "DemoResults":
    """Compute everything that the page shows."""
    from selfprompt.data.fewshot import select_base_new
    from selfprompt.reports.demo_page import DemoResults

    whole = reduced(task.dataset, options)
    halves = {part: select_base_new(whole, part) for part in ("base", "new")}
    name = f"{task.suite}/{task.name}"

    output.console.rule("1. Zero-shot classification by class names, without training")
    clip = load_clip(output)
    zero_shot = zero_shot_table(clip, options, output)

    output.console.rule(f"2. SEP: prompts in both encoders, tuned on the base classes of {name}")
    settings = {"sep": tune_arguments(SEP, task, halves["base"], options)}
    sep = tune_and_save(settings["sep"], whole, name, out, output)
    before, after = before_and_after(sep, clip, task, halves, output)
    print_halves(before, after, options.shots, output)

    output.console.rule("3. Classes that were not trained")
    unseen = predict_unseen(task, halves["new"], out, options.seed, output)

    output.console.rule(f"4. SPT: prompts that start from the training images, on {MAE}, which has no text encoder")
    settings |= {method: tune_arguments({**HEADS, **run}, task, whole, options) for method, run in METHODS.items()}
    heads = {method: tune_and_save(settings[method], whole, name, out, output) for method in METHODS}
    output.console.print(table(f"{options.shots} training images per class", ACCURACY_COLUMNS, head_rows(heads)))

    return DemoResults(
        task=replace(task, dataset=whole),
        halves=halves,
        shots=options.shots,
        seed=options.seed,
        zero_shot=zero_shot,
        before=before,
        after=after,
        sep=sep,
        heads=heads,
        settings=settings,
        folder=out,
        unseen=unseen,
        shown=shown_images(sep, halves["base"], options.seed),
        fast=options.fast,
    )


def load_clip(output: Output) -> "Backbone":
    """Load the CLIP of the package."""
    from selfprompt.models.loading.by_name import load_backbone

    with output.stage(f"loading {CLIP}"):
        clip = load_backbone(CLIP)
    if clip.note:
        output.message(f"Note: {clip.note}")
    return clip


def print_halves(before: "Mapping[str, Metrics]", after: "Mapping[str, Metrics]", shots: int, output: Output) -> None:
    """Print accuracy on base and new classes."""
    from selfprompt.reports.demo_page import HALF_COLUMNS, half_rows

    output.console.print(table(f"{shots} training images per base class", HALF_COLUMNS, half_rows(before, after)))


def reduced(dataset: "Dataset", options: Namespace) -> "Dataset":
    """Return the data set with as many test images as the demo uses, and without validation images."""
    count = min(len(dataset.test), FAST["test"] if options.fast else TEST_IMAGES)
    drawn = sorted(random.Random(options.seed).sample(range(len(dataset.test)), count))
    return replace(dataset, test=tuple(dataset.test[index] for index in drawn), val=())


def tune_arguments(run: Mapping[str, Any], task: "SuiteTask", dataset: "Dataset", options: Namespace) -> dict[str, Any]:
    """Return the arguments of ``tune`` for one of the settings above."""
    counts = Counter(item.label for item in dataset.train)
    images = sum(min(count, options.shots) for count in counts.values())
    views = FAST["views"] if options.fast else run["views"]
    method_options = dict(run.get("options", {}))
    if run["method"] == "sep":
        method_options["template"] = task.template
    return {
        **{name: value for name, value in run.items() if name not in ("views", "options")},
        "options": method_options,
        "epochs": max(2, round(views / images)),
        "shots": options.shots,
        "seed": options.seed,
    }


def zero_shot_table(clip: "Backbone", options: Namespace, output: Output) -> "dict[str, Metrics]":
    """Return the zero-shot metrics on every task of the suite, and print them."""
    from selfprompt.data.suites import list_tasks, load_task
    from selfprompt.reports.demo_page import ZERO_SHOT_COLUMNS, zero_shot_rows

    measured = {}
    for name in list_tasks(SUITE):
        task = load_task(f"{SUITE}/{name}")
        measured[name] = zero_shot(clip, task, reduced(task.dataset, options), f"zero-shot: {name}", output)
    output.console.print(table(f"{CLIP}, no training", ZERO_SHOT_COLUMNS, zero_shot_rows(measured)))
    return measured


def zero_shot(clip: "Backbone", task: "SuiteTask", dataset: "Dataset", stage: str, output: Output) -> "Metrics":
    """Return the zero-shot metrics of CLIP on the test images of a data set."""
    from selfprompt.inference.classifier import Classifier
    from selfprompt.methods.registry import build_method

    method = build_method("zero-shot", clip, dataset.classes, template=task.template)
    with output.stage(stage) as progress:
        return Classifier(method, clip.preprocess).evaluate(dataset.test, progress=progress)


def tune_and_save(values: Mapping[str, Any], dataset: "Dataset", name: str, out: Path, output: Output) -> "Classifier":
    """Tune one method and save it."""
    from selfprompt.reports.demo_page import train_command
    from selfprompt.training.tune import tune

    output.message("")
    output.message(f"$ {train_command(values, name)}")
    classifier = tune(dataset, **values, progress=True, reporter=output)
    classifier.save(out / values["method"])
    return classifier


def before_and_after(
    sep: "Classifier", clip: "Backbone", task: "SuiteTask", halves: "Mapping[str, Dataset]", output: Output
) -> "tuple[dict[str, Metrics], dict[str, Metrics]]":
    """Return zero-shot and tuned metrics on base and new classes."""
    from selfprompt.metrics import Metrics

    before, after = (Metrics.from_json(sep.results[name]) for name in ("zero_shot", "tuned"))
    new = halves["new"]
    untuned = zero_shot(clip, task, new, "zero-shot on the new classes", output)
    with output.stage("SEP on the new classes") as progress:
        renamed = sep.with_classes(new.classes).evaluate(new.test, progress=progress)
    return {"base": before, "new": untuned}, {"base": after, "new": renamed}


def head_rows(heads: "Mapping[str, Classifier]") -> list[list[str]]:
    """Return the rows of the accuracy table of the methods on the ViT without text."""
    return [[name, *accuracy_cells(classifier.results["tuned"])] for name, classifier in heads.items()]


def predict_unseen(task: "SuiteTask", new: "Dataset", out: Path, seed: int, output: Output) -> "list[UnseenPrediction]":
    """Classify three images of new classes with the saved SEP classifier and the new class names."""
    from selfprompt.cli.predict import prediction_table
    from selfprompt.inference.classifier import load
    from selfprompt.reports.demo_page import UnseenPrediction, predict_command

    drawn = unseen_images(task, new, random.Random(seed))
    paths = [out / UNSEEN / f"{number}.png" for number in range(1, len(drawn) + 1)]
    (out / UNSEEN).mkdir(exist_ok=True)
    for path, (_, _, item) in zip(paths, drawn, strict=True):
        item.load().save(path)
    output.message(f"$ {predict_command(out, paths, new.classes)}")
    with output.stage("loading the saved classifier"):
        classifier = load(out / SEP["method"]).with_classes(new.classes)
    predictions = classifier.predict(paths, top=3)
    output.console.print(prediction_table(predictions))
    unseen = [
        UnseenPrediction(path, truth, where, p.top)
        for path, (where, truth, _), p in zip(paths, drawn, predictions, strict=True)
    ]
    output.message("True classes: " + ", ".join(f"{one.truth} ({one.path.name})" for one in unseen))
    return unseen


def unseen_images(task: "SuiteTask", new: "Dataset", rng: random.Random) -> "list[tuple[str, str, Item]]":
    """Return domain, class name and item of three images of different new classes, from shifted domains if any."""
    domains = [
        (name, domain.classes[item.label], item) for name, domain in task.domains.items() for item in domain.test
    ]
    pool = [entry for entry in domains if entry[1] in new.classes]
    pool = pool or [("", new.classes[item.label], item) for item in new.test]
    return one_per_group(pool, lambda entry: entry[1], rng)[:3]


def shown_images(sep: "Classifier", base: "Dataset", seed: int) -> list[tuple[Any, str, str]]:
    """Return one test image per class, of up to ``SHOWN`` classes, with the true and the predicted class."""
    items = one_per_group(base.test, lambda item: item.label, random.Random(seed))[:SHOWN]
    images = [item.load() for item in items]
    predictions = sep.predict(images)
    return [(image, base.classes[i.label], p.label) for image, i, p in zip(images, items, predictions, strict=True)]


def one_per_group(entries: Sequence[Entry], group: Callable[[Entry], Hashable], rng: random.Random) -> list[Entry]:
    """Return a random entry of each group, in random order."""
    shuffled = rng.sample(entries, len(entries))
    return list({group(entry): entry for entry in shuffled}.values())


def write(results: "DemoResults", out: Path) -> None:
    """Write the picture, the page and, last, the numbers."""
    from selfprompt.reports.demo_page import write_demo_page, write_summary_picture
    from selfprompt.utils.files import write_json

    write_summary_picture(results, out / PICTURE)
    write_demo_page(results, out / PAGE)
    write_json(out / RECORD, results.record())
