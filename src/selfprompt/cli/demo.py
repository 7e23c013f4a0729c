"""``selfprompt demo``: runs everything once on small images, with the backbones of the package."""

import random
import shlex
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output, table
from selfprompt.cli.usage import check_at_least, usage

if TYPE_CHECKING:
    from selfprompt.data.dataset import Dataset, Item
    from selfprompt.data.suites.task import SuiteTask
    from selfprompt.inference.classifier import Classifier
    from selfprompt.metrics import Metrics
    from selfprompt.reports.demo_page import DemoResults, UnseenPrediction

Entry = TypeVar("Entry")

SUITE, TASK = "embedded", "embedded/objects"
CLIP, MAE = "embedded/clip", "embedded/mae"
BUDGET = "30s"
"""Time for ``auto`` to compare methods."""
HEADS = ("linear", "vpt-deep", "spt-deep")
"""Methods to compare on the backbone without text."""
TEST_IMAGES = 400
"""Largest number of test images, drawn at random."""
SHOWN = 16
"""Test images to show on the page."""
FAST = {
    "auto": ["--options.candidates", "[zero-shot,ridge]"],
    "sep": ["--epochs", "2"],
    "bench": ["--epochs", "2"],
}
"""What --fast adds to the commands."""
FAST_TEST_IMAGES = 40

PHOTOS, AUTO, SEP, BENCH, UNSEEN = "photos", "classifier", "sep", "bench", "unseen"
RECORD, PAGE, PICTURE, BENCH_PAGE = "demo.json", "index.html", "demo.png", "bench.html"
RUNS = (PHOTOS, AUTO, SEP, BENCH, UNSEEN)
WRITTEN = (*RUNS, BENCH_PAGE, PAGE, PICTURE, RECORD)
"""Files and folders that the demo writes; it replaces them only in a folder that a demo made."""


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=str, default="demo-output", help="output folder for the page and the classifiers")
    parser.add_argument("--task", type=str, default=TASK, help="task of the embedded suite to tune on")
    parser.add_argument("--shots", type=int, default=4, help="training images per class")
    parser.add_argument("--seed", type=int, default=1, help="seed of every random choice")
    parser.add_argument("--fast", action="store_true", help="cut training short, to see that everything works")


def demo(options: Namespace) -> int:
    """Run the command."""
    check_at_least(options, 1, "shots")
    from selfprompt.data.suites import load_task
    from selfprompt.utils.files import write_json

    start = time.monotonic()
    with usage():
        task = load_task(options.task if "/" in options.task else f"{SUITE}/{options.task}")
    out = prepare_folder(Path(options.out))
    output = Output()
    before = written_files(out)
    try:
        results = run_demo(task, out, options, output)
    except CommandFailed as error:
        return error.status  # the command has said why
    finally:
        write_json(out / RECORD, {"finished": False, "files": sorted(written_files(out) - before)})
    write(replace(results, seconds=time.monotonic() - start), out, sorted(written_files(out) - before))
    output.message("")
    output.message(f"Picture: {(out / PICTURE).resolve()}")
    output.message(f"Page:    {(out / PAGE).resolve()}")
    return 0


class CommandFailed(RuntimeError):
    """A command of the demo ended with an error."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a command ended with status {status}")
        self.status = status


def prepare_folder(out: Path) -> Path:
    """Mark the folder as a demo's and remove the files that an earlier demo wrote; others stay.

    Raises:
        ValueError: If it contains a file of a name that the demo writes, but is not a demo's folder.
    """
    from selfprompt.utils.files import write_json
    from selfprompt.utils.json_files import read_json

    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file. Choose another folder with --out.")
    present = [name for name in WRITTEN if (out / name).exists()]
    if present and RECORD not in present:
        raise ValueError(f"{out} contains {present[0]}, which no demo wrote. Choose another folder with --out.")
    record = read_json(out / RECORD, advice="Delete it.") if present else {}
    earlier = record.get("files", []) if isinstance(record, dict) else []
    own = [name for name in map(PurePosixPath, map(str, earlier)) if name.parts[0] in RUNS and ".." not in name.parts]
    write_json(out / RECORD, {"finished": False})
    for name in (*map(str, own), PAGE, PICTURE, BENCH_PAGE):
        (out / name).unlink(missing_ok=True)
    return out


def written_files(out: Path) -> set[str]:
    """Return the files in the folders that the demo's commands write to, relative to the output folder."""
    return {path.relative_to(out).as_posix() for name in RUNS for path in (out / name).rglob("*") if path.is_file()}


def run_demo(task: "SuiteTask", out: Path, options: Namespace, output: Output) -> "DemoResults":
    """Run the commands, and collect what the page shows."""
    from selfprompt.reports.demo_page import DemoResults

    whole = write_photos(task, out / PHOTOS, options, output)
    commands = demo_commands(task, out, options)

    output.console.rule("1. A folder of photos, and the best classifier for it")
    run_command(commands["auto"], output)

    output.console.rule("2. Class names that were not trained")
    run_command(commands["sep"], output)
    sep = load_classifier(out / SEP, output)
    halves, before, after = before_and_after(sep, whole, output)
    unseen = predict_unseen(task, halves["new"], sep, out, options.seed, output)

    output.console.rule(f"3. For researchers: SPT, VPT and a linear probe on {MAE}, which has no text encoder")
    run_command(commands["bench"], output)
    run_command(commands["report"], output)

    return DemoResults(
        task=replace(task, dataset=whole),
        halves=halves,
        shots=options.shots,
        seed=options.seed,
        auto=read_result(out / AUTO),
        sep=read_result(out / SEP),
        before=before,
        after=after,
        bench=read_bench(out / BENCH),
        commands={name: shlex.join(["selfprompt", *words]) for name, words in commands.items()},
        folder=out,
        links={"report": f"{AUTO}/report.html", "bench": BENCH_PAGE},
        unseen=unseen,
        shown=shown_images(load_classifier(out / AUTO, output), whole, options.seed),
        fast=options.fast,
    )


def demo_commands(task: "SuiteTask", out: Path, options: Namespace) -> dict[str, list[str]]:
    """Return the command lines of the demo by name, without the name of the program."""
    photos, seed = str(out / PHOTOS), ["--seed", str(options.seed)]
    added: Mapping[str, list[str]] = FAST if options.fast else {}
    train = ["train", photos, "--backbone", CLIP, *seed]
    shots = ["--shots", str(2 * options.shots), "--seeds", str(options.seed)]
    bench = ["bench", "few-shot", "--suite", SUITE, "--datasets", task.name, "--methods", ",".join(HEADS), *shots]
    bench += ["--backbone", MAE]
    return {
        "auto": [*train, "--budget", BUDGET, *added.get("auto", []), "--out", str(out / AUTO), "--html"],
        "sep": [*train, "--method", "sep", "--classes", "base", *added.get("sep", []), "--out", str(out / SEP)],
        "bench": [*bench, *added.get("bench", []), "--out", str(out / BENCH)],
        "report": ["report", str(out / BENCH), "--html", str(out / BENCH_PAGE)],
    }


def run_command(words: Sequence[str], output: Output) -> None:
    """Print a command line and run it in this process.

    Raises:
        CommandFailed: If it does not succeed.
    """
    from selfprompt.cli.main import run

    output.message("")
    output.message(f"$ {shlex.join(['selfprompt', *words])}")
    if status := run(words[0], words[1:]):
        raise CommandFailed(status)


def write_photos(task: "SuiteTask", folder: Path, options: Namespace, output: Output) -> "Dataset":
    """Write training and test images of a task as a folder of photos, and read it.

    Args:
        task: The task; its first ``options.shots`` training images of each class are drawn by the seed.
        folder: Gets train/CLASS/N.png and test/CLASS/N.png.
        options: Options of the command.
        output: Receives the progress.
    """
    from selfprompt.data.fewshot import draw_few_shot
    from selfprompt.data.readers.read import read_dataset

    dataset = reduced(task.dataset, options)
    train, _ = draw_few_shot(dataset.train, (), options.shots, options.seed)
    written: Counter[tuple[str, int]] = Counter()
    items = [("train", item) for item in train] + [("test", item) for item in dataset.test]
    with output.stage("writing the photos") as progress:
        for done, (split, item) in enumerate(items):
            place = folder / split / dataset.classes[item.label].replace("/", "-")
            place.mkdir(parents=True, exist_ok=True)
            written[split, item.label] += 1
            item.load().save(place / f"{written[split, item.label]}.png")
            progress(done + 1, len(items))
    return read_dataset(str(folder))


def reduced(dataset: "Dataset", options: Namespace) -> "Dataset":
    """Return the data set with as many test images as the demo uses, and without validation images."""
    count = min(len(dataset.test), FAST_TEST_IMAGES if options.fast else TEST_IMAGES)
    drawn = sorted(random.Random(options.seed).sample(range(len(dataset.test)), count))
    return replace(dataset, test=tuple(dataset.test[index] for index in drawn), val=())


def load_classifier(folder: Path, output: Output) -> "Classifier":
    """Load a classifier that a command of the demo saved."""
    from selfprompt.inference.loading import load

    with output.stage(f"loading {folder}"):
        return load(folder)


def read_result(folder: Path) -> dict[str, Any]:
    """Return the result that ``selfprompt train`` wrote."""
    from selfprompt.training.tune import RESULT
    from selfprompt.utils.json_files import read_json

    record: dict[str, Any] = read_json(folder / RESULT, advice="Run the demo again.")
    return record


def read_bench(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the record of each method of the benchmark."""
    from selfprompt.benchmarks.results import read_results

    by_row = {result.row: result for result in read_results(folder).results}
    return {
        row: {**by_row[row].record, "tuned": metrics.to_json()}
        for row in HEADS
        if row in by_row and (metrics := by_row[row].evaluations["test"])
    }


def before_and_after(
    sep: "Classifier", whole: "Dataset", output: Output
) -> "tuple[dict[str, Dataset], dict[str, Metrics], dict[str, Metrics]]":
    """Return base and new classes, and the metrics on both, zero-shot and with SEP."""
    from selfprompt.data.fewshot import select_base_new
    from selfprompt.inference.classifier import Classifier
    from selfprompt.methods.registry import build_method
    from selfprompt.reports.demo_page import HALF_COLUMNS, half_rows

    halves = {part: select_base_new(whole, part) for part in ("base", "new")}
    before, after = {}, {}
    for part, half in halves.items():
        untuned = build_method("zero-shot", sep.method.backbone, half.classes)
        with output.stage(f"zero-shot on the {part} classes") as progress:
            before[part] = Classifier(untuned, sep.preprocess).evaluate(half.test, progress=progress)
        renamed = sep if part == "base" else sep.with_classes(half.classes)
        with output.stage(f"SEP on the {part} classes") as progress:
            after[part] = renamed.evaluate(half.test, progress=progress)
    output.console.print(table("trained on the base classes alone", HALF_COLUMNS, half_rows(before, after)))
    return halves, before, after


def predict_unseen(
    task: "SuiteTask", new: "Dataset", sep: "Classifier", out: Path, seed: int, output: Output
) -> "list[UnseenPrediction]":
    """Classify three images of new classes with the saved SEP classifier and the new class names."""
    from selfprompt.reports.demo_page import UnseenPrediction, predict_words

    drawn = unseen_images(task, new, random.Random(seed))
    paths = [out / UNSEEN / f"{number}.png" for number in range(1, len(drawn) + 1)]
    (out / UNSEEN).mkdir(exist_ok=True)
    for path, (_, _, item) in zip(paths, drawn, strict=True):
        item.load().save(path)
    run_command(predict_words(out / SEP, paths, new.classes), output)
    predictions = sep.with_classes(new.classes).predict(paths, top=3)
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


def shown_images(classifier: "Classifier", dataset: "Dataset", seed: int) -> list[tuple[Any, str, str]]:
    """Return one test image per class, of up to ``SHOWN`` classes, with the true and the predicted class."""
    items = one_per_group(dataset.test, lambda item: item.label, random.Random(seed))[:SHOWN]
    images = [item.load() for item in items]
    predictions = classifier.predict(images)
    return [(image, dataset.classes[i.label], p.label) for image, i, p in zip(images, items, predictions, strict=True)]


def one_per_group(entries: Sequence[Entry], group: Callable[[Entry], Hashable], rng: random.Random) -> list[Entry]:
    """Return a random entry of each group, in random order."""
    shuffled = rng.sample(entries, len(entries))
    return list({group(entry): entry for entry in shuffled}.values())


def write(results: "DemoResults", out: Path, files: Sequence[str]) -> None:
    """Write the picture, the page and, last, the numbers."""
    from selfprompt.reports.demo_page import write_demo_page, write_summary_picture
    from selfprompt.utils.files import write_json

    write_summary_picture(results, out / PICTURE)
    write_demo_page(results, out / PAGE)
    write_json(out / RECORD, {**results.record(), "files": list(files)})
