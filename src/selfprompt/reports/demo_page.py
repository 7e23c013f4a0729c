"""The demo's demo and the page that tells it: every number is from the run that it describes."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import TYPE_CHECKING, Any

from PIL import Image

from selfprompt.metrics import Metrics, harmonic_mean
from selfprompt.reports.accuracy import ACCURACY_COLUMNS, accuracy_cells
from selfprompt.reports.html import Block, Picture, code, figure, pictures, table, text, write_page
from selfprompt.reports.plots import Estimate, accuracy_bars, training_curves
from selfprompt.reports.summary_picture import summary_picture

if TYPE_CHECKING:
    from selfprompt.data.dataset import Dataset
    from selfprompt.data.suites.task import SuiteTask
    from selfprompt.inference.classifier import Classifier

REAL = "open_clip/ViT-B-16/openai"
TOY = (
    "The backbones of this page are toys: small models that come with the package, for trying things out without a "
    "download. The page shows how selfprompt works, not how good prompt tuning is."
)
ZERO_SHOT_COLUMNS = ("task", "classes", "chance", "accuracy", "95 % interval", "test images")
HALF_COLUMNS = ("model", "base", "95 % interval", "new", "95 % interval", "H")


WIDTH = 100
"""Letters in a line of code on the page."""


@dataclass(frozen=True)
class UnseenPrediction:
    """What a classifier says of an image whose class was never trained.

    Attributes:
        path: Where the image was saved.
        truth: Its class.
        domain: The shifted domain that it is from; empty for the style of the training images.
        top: The most likely classes with their probabilities, best first.
    """

    path: Path
    truth: str
    domain: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class DemoResults:
    """Everything that a demo computed.

    Attributes:
        task: What was tuned on; its test images are the ones that were looked at.
        halves: Its "base" and "new" classes.
        shots, seed: As given.
        zero_shot: Metrics of the untuned CLIP by task of the suite.
        before, after: Metrics on the base and the new classes: zero-shot, and with SEP.
        sep: SEP, tuned on the base classes.
        heads: Methods tuned on the plain ViT, by name.
        settings: The arguments of ``tune`` by method: "sep" and the names of ``heads``.
        folder: Where the classifiers were saved.
        unseen: Predictions with class names that were never trained.
        shown: Test images of the base classes with the true class and what SEP says.
        fast: Whether training was cut short.
        seconds: The whole demo.
    """

    task: "SuiteTask"
    halves: "Mapping[str, Dataset]"
    shots: int
    seed: int
    zero_shot: Mapping[str, Metrics]
    before: Mapping[str, Metrics]
    after: Mapping[str, Metrics]
    sep: "Classifier"
    heads: "Mapping[str, Classifier]"
    settings: Mapping[str, Mapping[str, Any]]
    folder: Path
    unseen: Sequence[UnseenPrediction]
    shown: Sequence[tuple[Any, str, str]]
    fast: bool = False
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The task as a user names it."""
        return f"{self.task.suite}/{self.task.name}"

    @property
    def note(self) -> str:
        """What must be said about the backbones."""
        own = self.sep.method.backbone.note
        cut = "--fast cut training short: the accuracies mean nothing. " if self.fast else ""
        return f"{cut}{TOY} {own}".strip()

    def record(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        measured = {"zero_shot": self.zero_shot, "before": self.before, "after": self.after}
        return {
            "finished": True,
            "task": self.name,
            "shots": self.shots,
            "seed": self.seed,
            "seconds": self.seconds,
            **{what: {name: m.to_json() for name, m in named.items()} for what, named in measured.items()},
            "heads": {name: classifier.results["tuned"] for name, classifier in self.heads.items()},
            "unseen": [{"image": g.path.name, "truth": g.truth, "top": [list(p) for p in g.top]} for g in self.unseen],
        }


def chance(metrics: Metrics) -> float:
    """Accuracy of guessing among the classes, in percent."""
    return 100 / len(metrics.confusion)


def mean_of_halves(halves: Mapping[str, Metrics]) -> float:
    """H: the harmonic mean of base and new accuracy."""
    return harmonic_mean(halves["base"].accuracy, halves["new"].accuracy)


def half_rows(before: Mapping[str, Metrics], after: Mapping[str, Metrics]) -> list[list[str]]:
    """Rows of the table with ``HALF_COLUMNS``."""
    rows = []
    for name, halves in (("zero-shot", before), ("SEP", after)):
        base, new = accuracy_cells(halves["base"].to_json()), accuracy_cells(halves["new"].to_json())
        rows.append([name, *base[:2], *new[:2], f"{mean_of_halves(halves):.1f} %"])
    return rows


def zero_shot_rows(measured: Mapping[str, Metrics]) -> list[list[str]]:
    """Rows of the zero-shot table: task, classes, chance, and the accuracy's cells without the mean of classes."""
    rows = []
    for name, metrics in measured.items():
        accuracy, interval, _, total = accuracy_cells(metrics.to_json())
        rows.append([name, f"{len(metrics.confusion)}", f"{chance(metrics):.1f} %", accuracy, interval, total])
    return rows


def write_demo_page(demo: DemoResults, path: Path) -> None:
    """Write the page."""
    sections = [
        ("What happened", _overview(demo)),
        ("Zero-shot: a CLIP reads class names", _zero_shot(demo)),
        ("SEP: prompts in both encoders, tuned on half of the classes", _sep(demo)),
        ("Class names that were never trained", _unseen(demo)),
        ("SPT: prompts that start from your own images", _heads(demo)),
        ("Your own images, with a real backbone", _yours(demo)),
    ]
    write_page(path, f"selfprompt demo: {demo.task.name.replace('_', ' ')}", sections, demo.note)


def _overview(demo: DemoResults) -> list[Block]:
    fast = " --fast" if demo.fast else ""
    seconds = f"in {demo.seconds:.0f} seconds " if demo.seconds else ""
    return [
        text(
            f"selfprompt adapts a frozen model to your images by a few learned tokens, its prompts. This page was made "
            f"{seconds}by `selfprompt demo --task {demo.name} --shots {demo.shots} --seed {demo.seed}{fast}`. Every "
            "number on it is from that run; test images were used for testing only, and nothing was chosen by them."
        ),
        text(
            f"The task: {demo.name}, {len(demo.task.dataset.classes)} classes, {demo.shots} training images a class "
            "where there are as many."
        ),
        *(text(note) for note in dict.fromkeys((*demo.task.dataset.notes, demo.task.source)) if note),
    ]


def _zero_shot(demo: DemoResults) -> list[Block]:
    tasks = list(demo.zero_shot)
    bars = {"zero-shot": [_estimate(demo.zero_shot[name]) for name in tasks]}
    plot = accuracy_bars(tasks, bars, chance=[chance(demo.zero_shot[name]) for name in tasks])
    return [
        text(
            f"Before any training, {demo.sep.method.backbone.name} classifies by comparing an image with a text for "
            f"each class name; for {demo.task.name} the text is “{demo.task.template}”"
        ),
        table(ZERO_SHOT_COLUMNS, zero_shot_rows(demo.zero_shot)),
        figure(plot, "Zero-shot accuracy with its 95 % interval; dashed: guessing.", "Bars of accuracy for each task"),
    ]


def _sep(demo: DemoResults) -> list[Block]:
    halves, results = demo.halves, demo.sep.results
    series = {
        name: [_estimate(found["base"]), _estimate(found["new"]), Estimate(mean_of_halves(found))]
        for name, found in (("zero-shot", demo.before), ("SEP", demo.after))
    }
    levels = [chance(demo.before["base"]), chance(demo.before["new"])]
    return [
        text(
            f"SEP learned {results['trainable_parameters']:,} numbers on {results['images']['train']} images of the "
            f"{len(halves['base'].classes)} base classes, in {results['train_seconds']:.0f} s. The other "
            f"{len(halves['new'].classes)} classes, the new ones, it knows by name only. H is the harmonic mean of "
            "both accuracies: it is high only where the base classes gain and the new ones are not forgotten."
        ),
        table(HALF_COLUMNS, half_rows(demo.before, demo.after)),
        text(_verdict(demo)),
        figure(
            accuracy_bars(["base", "new", "H"], series, chance=levels),
            "Before and after tuning, with 95 % intervals of the test images; dashed: guessing.",
            "Bars of base, new and harmonic mean accuracy, zero-shot and with SEP",
        ),
        figure(
            training_curves({"SEP": results["history"]}),
            "Training loss, all terms together, and accuracy on the training images.",
            "Curves of loss and training accuracy by epoch",
        ),
        text("Test images of the base classes, drawn by the seed, and what SEP says of them:"),
        pictures([_captioned(*shown) for shown in demo.shown]),
        code(_command(demo, "sep")),
        text("The same from Python:"),
        code(_python(demo, "sep")),
    ]


def _verdict(demo: DemoResults) -> str:
    """How accuracy moved on both halves, and whether so few test images can tell."""
    sentences = []
    for part in ("base", "new"):
        before, after = demo.before[part], demo.after[part]
        apart = before.interval[1] < after.interval[0] or after.interval[1] < before.interval[0]
        doubt = "the intervals do not overlap" if apart else f"the intervals overlap: {after.total} images tell no more"
        sentences.append(
            f"On the {part} classes accuracy moved by {after.accuracy - before.accuracy:+.1f} points ({doubt})."
        )
    return " ".join(sentences)


def _unseen(demo: DemoResults) -> list[Block]:
    images = []
    for found in demo.unseen:
        said = ", ".join(f"{label} {100 * share:.0f} %" for label, share in found.top)
        where = f" ({found.domain})" if found.domain else ""
        with Image.open(found.path) as image:
            wrong = found.top[0][0] != found.truth
            images.append(Picture(image.copy(), f"{found.truth}{where}", f"says: {said}", wrong))
    return [
        text(
            "The saved classifier is loaded and told the names of the new classes. Nothing is trained: SEP's prompts "
            "work with any names. These images were drawn by the seed, not chosen."
        ),
        pictures(images),
        code(folded(predict_command(demo.folder, [found.path for found in demo.unseen], demo.halves["new"].classes))),
        code(
            "import selfprompt\n\n"
            f"classifier = selfprompt.load({str(demo.folder / 'sep')!r})\n"
            f"names = {pformat(list(demo.halves['new'].classes), width=WIDTH, compact=True)}\n"
            f"print(classifier.with_classes(names).predict({str(demo.unseen[0].path)!r}, top=3))"
        ),
    ]


def _heads(demo: DemoResults) -> list[Block]:
    results = {name: classifier.results for name, classifier in demo.heads.items()}
    backbone = next(iter(demo.heads.values())).method.backbone.name
    rows = [
        [name, f"{found['trainable_parameters']:,}", *accuracy_cells(found["tuned"]), f"{found['train_seconds']:.0f} s"]
        for name, found in results.items()
    ]
    columns = ["method", "trainable parameters", *ACCURACY_COLUMNS[1:], "training"]
    bars = {name: [Estimate.of(found["tuned"])] for name, found in results.items()}
    level = 100 / len(demo.task.dataset.classes)
    return [
        text(
            f"{backbone} is the encoder of a masked autoencoder: it has no text, so a method needs a head, and its "
            "classes are fixed. VPT learns prompts that start at random; SPT starts the same number of prompts as "
            "tokens of the task's own images. Training is the same for all: only the method differs."
        ),
        table(columns, rows),
        figure(
            accuracy_bars(["all classes"], bars, chance=[level]),
            "Test accuracy with its 95 % interval; dashed: guessing.",
            "Bars of accuracy of linear probe, VPT and SPT",
        ),
        figure(
            training_curves({name: found["history"] for name, found in results.items()}),
            "The same number of epochs for each.",
            "Curves of loss and training accuracy by epoch",
        ),
        code("\n\n".join(_command(demo, name) for name in demo.heads)),
    ]


def _yours(demo: DemoResults) -> list[Block]:
    toy = demo.sep.method.backbone.name
    return [
        text("One folder of images for each class, and one other word for the backbone (it is downloaded once):"),
        code(f"- --backbone {toy}\n+ --backbone {REAL}"),
        code(
            f"selfprompt train photos --method sep --shots 16 --out mine --backbone {REAL}\n"
            "selfprompt predict mine new-photo.jpg --top 3\n"
            'selfprompt predict mine new-photo.jpg --classes "one name,another name"'
        ),
        code(
            "import selfprompt\n\n"
            f'classifier = selfprompt.tune("photos", method="sep", shots=16, backbone="{REAL}")\n'
            'print(classifier.results["tuned"]["accuracy"], classifier.results["tuned"]["interval"])\n'
            'classifier.save("mine")'
        ),
        text(
            "The training values in the commands further up suit the small backbones. Leave them out for a real one: "
            "each method has a recipe of its own, and `selfprompt train --method sep --print-config` shows it."
        ),
    ]


def write_summary_picture(demo: DemoResults, path: Path) -> None:
    """Write the page in one picture."""
    bars = {
        "zero-shot, base classes": _estimate(demo.before["base"]),
        "SEP, base classes": _estimate(demo.after["base"]),
        "zero-shot, new classes": _estimate(demo.before["new"]),
        "SEP, new classes": _estimate(demo.after["new"]),
        **{f"{name}, all classes": Estimate.of(found.results["tuned"]) for name, found in demo.heads.items()},
    }
    histories = {name: found.results["history"] for name, found in demo.heads.items()}
    caption = f"{demo.name}, {demo.shots} shots. Pictures: test images and what SEP says of them.\nToy backbones."
    summary_picture(path, bars, histories, demo.shown, caption)


def train_command(values: Mapping[str, Any], name: str) -> str:
    """The command line that trains on a task of this name as ``tune`` does with these arguments."""
    flat = {**values, **{f"options.{option}": value for option, value in values["options"].items()}}
    words = [f"--{key.replace('_', '-')} {quoted(value)}" for key, value in flat.items() if key != "options"]
    return " ".join(["selfprompt train", name, *words, f"--out {own_folder(values, name)}"])


def own_folder(values: Mapping[str, Any], name: str) -> str:
    """Where a user's own run of a training would go; the demo's folder holds a finished one."""
    return f"{name.rpartition('/')[2]}-{values['method']}"


def predict_command(folder: Path, images: Sequence[Path], classes: Sequence[str]) -> str:
    """The command line that classifies images with SEP by other class names."""
    paths = " ".join(map(quoted, images))
    names = ",".join(f'"{name}"' if "," in name else name for name in classes)
    return f"selfprompt predict {quoted(folder / 'sep')} {paths} --top 3 --classes {quoted(names)}"


def quoted(value: object) -> str:
    """A word of a command line."""
    return shlex.quote(str(value))


def _command(demo: DemoResults, method: str) -> str:
    return folded(train_command(demo.settings[method], demo.name))


def _python(demo: DemoResults, method: str) -> str:
    """The same training in Python."""
    values = {**demo.settings[method], "out": own_folder(demo.settings[method], demo.name)}
    lines = "".join(f"    {key}={value!r},\n" for key, value in values.items() if value != {})
    return f"import selfprompt\n\nselfprompt.tune(\n    {demo.name!r},\n{lines})"


def folded(command: str) -> str:
    """A command line in lines of up to ``WIDTH`` letters, cut in front of options, as a shell takes it."""
    first, *options = command.split(" --")
    lines = [first]
    for option in options:
        if len(lines[-1]) + len(option) + 5 <= WIDTH:
            lines[-1] += f" --{option}"
        else:
            lines.append(f"  --{option}")
    return " \\\n".join(lines)


def _captioned(image: Any, truth: str, said: str) -> Picture:
    return Picture(image, said) if said == truth else Picture(image, f"{said} (is {truth})", wrong=True)


def _estimate(metrics: Metrics) -> Estimate:
    return Estimate(metrics.accuracy, *metrics.interval)
