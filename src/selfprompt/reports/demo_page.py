"""The results of a demo and the page that shows them; every number comes from the run itself."""

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
    "The backbones of this page are toys: small models of the package that need no download. The page shows how "
    "selfprompt works, not how good prompt tuning is."
)
ZERO_SHOT_COLUMNS = ("task", "classes", "chance", "accuracy", "95 % interval", "test images")
HALF_COLUMNS = ("model", "base", "95 % interval", "new", "95 % interval", "H")


WIDTH = 100
"""Characters per line of code on the page."""


@dataclass(frozen=True)
class UnseenPrediction:
    """Prediction for an image of a class that was not trained.

    Attributes:
        path: File of the image.
        truth: True class.
        domain: Shifted domain of the image; empty for the domain of the training images.
        top: Most likely classes with their probabilities, best first.
    """

    path: Path
    truth: str
    domain: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class DemoResults:
    """Everything that a demo computed.

    Attributes:
        task: Task of the demo, with the test images that were used.
        halves: Its base and new classes, under "base" and "new".
        shots, seed: Options of the command.
        zero_shot: Zero-shot metrics of CLIP on each task of the suite.
        before, after: Metrics on base and new classes, zero-shot and with SEP.
        sep: SEP, tuned on the base classes.
        heads: Methods tuned on the ViT without text, by name.
        settings: Arguments of ``tune`` for "sep" and for each of ``heads``.
        folder: Output folder with the classifiers.
        unseen: Predictions for classes that were not trained.
        shown: Test images of base classes with the true and the predicted class.
        fast: Whether training was cut short.
        seconds: Duration of the demo.
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
        """Name of the task on the command line."""
        return f"{self.task.suite}/{self.task.name}"

    @property
    def note(self) -> str:
        """Warning about the backbones, shown at the top of the page."""
        backbone = self.sep.method.backbone.note
        cut = "--fast cut training short, so the accuracies mean nothing. " if self.fast else ""
        return f"{cut}{TOY} {backbone}".strip()

    def record(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        measured = {"zero_shot": self.zero_shot, "before": self.before, "after": self.after}
        return {
            "finished": True,
            "task": self.name,
            "shots": self.shots,
            "seed": self.seed,
            "seconds": self.seconds,
            **{key: {name: m.to_json() for name, m in by_name.items()} for key, by_name in measured.items()},
            "heads": {name: classifier.results["tuned"] for name, classifier in self.heads.items()},
            "unseen": [{"image": g.path.name, "truth": g.truth, "top": [list(p) for p in g.top]} for g in self.unseen],
        }


def chance(metrics: Metrics) -> float:
    """Return the chance level of the classes, in percent."""
    return 100 / len(metrics.confusion)


def mean_of_halves(halves: Mapping[str, Metrics]) -> float:
    """Return H, the harmonic mean of base and new accuracy, in percent."""
    return harmonic_mean(halves["base"].accuracy, halves["new"].accuracy)


def half_rows(before: Mapping[str, Metrics], after: Mapping[str, Metrics]) -> list[list[str]]:
    """Return rows for ``HALF_COLUMNS``."""
    rows = []
    for name, halves in (("zero-shot", before), ("SEP", after)):
        base, new = accuracy_cells(halves["base"].to_json()), accuracy_cells(halves["new"].to_json())
        rows.append([name, *base[:2], *new[:2], f"{mean_of_halves(halves):.1f} %"])
    return rows


def zero_shot_rows(measured: Mapping[str, Metrics]) -> list[list[str]]:
    """Return rows for ``ZERO_SHOT_COLUMNS``."""
    rows = []
    for name, metrics in measured.items():
        accuracy, interval, _, total = accuracy_cells(metrics.to_json())
        rows.append([name, f"{len(metrics.confusion)}", f"{chance(metrics):.1f} %", accuracy, interval, total])
    return rows


def write_demo_page(demo: DemoResults, path: Path) -> None:
    """Write the page."""
    sections = [
        ("Overview", _overview(demo)),
        ("Zero-shot classification by class names", _zero_shot(demo)),
        ("SEP: prompts in both encoders, tuned on half of the classes", _sep(demo)),
        ("Classes that were not trained", _unseen(demo)),
        ("SPT: prompts that start from the training images", _heads(demo)),
        ("Your images and a full-size backbone", _yours(demo)),
    ]
    write_page(path, f"selfprompt demo: {demo.task.name.replace('_', ' ')}", sections, demo.note)


def _overview(demo: DemoResults) -> list[Block]:
    fast = " --fast" if demo.fast else ""
    seconds = f"in {demo.seconds:.0f} seconds " if demo.seconds else ""
    return [
        text(
            "selfprompt adapts a frozen model to your images with a few learned tokens, the prompts. This page was "
            f"made {seconds}by `selfprompt demo --task {demo.name} --shots {demo.shots} --seed {demo.seed}{fast}`. "
            "Every number comes from that run. Test images were used for testing only; nothing was selected on them."
        ),
        text(
            f"The task: {demo.name}, {len(demo.task.dataset.classes)} classes, {demo.shots} training images per "
            "class if available."
        ),
        *(text(note) for note in dict.fromkeys((*demo.task.dataset.notes, demo.task.source)) if note),
    ]


def _zero_shot(demo: DemoResults) -> list[Block]:
    tasks = list(demo.zero_shot)
    bars = {"zero-shot": [_estimate(demo.zero_shot[name]) for name in tasks]}
    plot = accuracy_bars(tasks, bars, chance=[chance(demo.zero_shot[name]) for name in tasks])
    return [
        text(
            f"Before any training, {demo.sep.method.backbone.name} classifies an image by comparing it with one text "
            f"per class; for {demo.task.name} the text is “{demo.task.template}”"
        ),
        table(ZERO_SHOT_COLUMNS, zero_shot_rows(demo.zero_shot)),
        figure(
            plot,
            "Zero-shot accuracy with 95 % intervals; dashed: chance level.",
            "Bar chart of the accuracy on each task",
        ),
    ]


def _sep(demo: DemoResults) -> list[Block]:
    halves, results = demo.halves, demo.sep.results
    series = {
        name: [_estimate(half["base"]), _estimate(half["new"]), Estimate(mean_of_halves(half))]
        for name, half in (("zero-shot", demo.before), ("SEP", demo.after))
    }
    levels = [chance(demo.before["base"]), chance(demo.before["new"])]
    return [
        text(
            f"SEP trained {results['trainable_parameters']:,} parameters on {results['images']['train']} images of "
            f"the {len(halves['base'].classes)} base classes in {results['train_seconds']:.0f} s. The other "
            f"{len(halves['new'].classes)} classes, the new ones, are given by name only. H is the harmonic mean of "
            "both accuracies: it is high only if the base classes improve and the new ones are not forgotten."
        ),
        table(HALF_COLUMNS, half_rows(demo.before, demo.after)),
        text(_verdict(demo)),
        figure(
            accuracy_bars(["base", "new", "H"], series, chance=levels),
            "Before and after tuning, with 95 % intervals over the test images; dashed: chance level.",
            "Bar chart of base, new and harmonic mean accuracy, zero-shot and with SEP",
        ),
        figure(
            training_curves({"SEP": results["history"]}),
            "Total training loss, and accuracy on the training images.",
            "Curves of training loss and accuracy over the epochs",
        ),
        text("Random test images of the base classes with the predictions of SEP:"),
        pictures([_captioned(*shown) for shown in demo.shown]),
        code(_command(demo, "sep")),
        text("The same from Python:"),
        code(_python(demo, "sep")),
    ]


def _verdict(demo: DemoResults) -> str:
    """Describe the change of accuracy on both halves, and whether the test images suffice to confirm it."""
    sentences = []
    for half in ("base", "new"):
        before, after = demo.before[half], demo.after[half]
        apart = before.interval[1] < after.interval[0] or after.interval[1] < before.interval[0]
        overlap = f"the intervals overlap, so {after.total} images cannot confirm it"
        doubt = "the intervals do not overlap" if apart else overlap
        sentences.append(
            f"On the {half} classes, accuracy changed by {after.accuracy - before.accuracy:+.1f} points ({doubt})."
        )
    return " ".join(sentences)


def _unseen(demo: DemoResults) -> list[Block]:
    images = []
    for unseen in demo.unseen:
        predicted = ", ".join(f"{label} {100 * share:.0f} %" for label, share in unseen.top)
        domain = f" ({unseen.domain})" if unseen.domain else ""
        with Image.open(unseen.path) as image:
            wrong = unseen.top[0][0] != unseen.truth
            images.append(Picture(image.copy(), f"{unseen.truth}{domain}", f"predicted: {predicted}", wrong))
    return [
        text(
            "The saved classifier is loaded and gets the names of the new classes. Nothing is trained, since SEP's "
            "prompts work with any names. The images are drawn at random."
        ),
        pictures(images),
        code(folded(predict_command(demo.folder, [unseen.path for unseen in demo.unseen], demo.halves["new"].classes))),
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
        [
            name,
            f"{result['trainable_parameters']:,}",
            *accuracy_cells(result["tuned"]),
            f"{result['train_seconds']:.0f} s",
        ]
        for name, result in results.items()
    ]
    columns = ["method", "trainable parameters", *ACCURACY_COLUMNS[1:], "training"]
    bars = {name: [Estimate.of(result["tuned"])] for name, result in results.items()}
    level = 100 / len(demo.task.dataset.classes)
    return [
        text(
            f"{backbone} is the encoder of a masked autoencoder. It has no text encoder, so methods train a head for "
            "a fixed set of classes. VPT initialises its prompts at random, SPT initialises as many prompts from "
            "tokens of the training images. All methods use the same training settings."
        ),
        table(columns, rows),
        figure(
            accuracy_bars(["all classes"], bars, chance=[level]),
            "Test accuracy with 95 % intervals; dashed: chance level.",
            "Bar chart of the accuracy of linear probe, VPT and SPT",
        ),
        figure(
            training_curves({name: result["history"] for name, result in results.items()}),
            "The number of epochs is the same for all.",
            "Curves of training loss and accuracy over the epochs",
        ),
        code("\n\n".join(_command(demo, name) for name in demo.heads)),
    ]


def _yours(demo: DemoResults) -> list[Block]:
    toy = demo.sep.method.backbone.name
    return [
        text("Put the images of each class in a folder, and choose another backbone (downloaded once):"),
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
            "The training settings in the commands above suit the small backbones. Leave them out for a full-size one: "
            "each method has its own recipe, and `selfprompt train --method sep --print-config` shows it."
        ),
    ]


def write_summary_picture(demo: DemoResults, path: Path) -> None:
    """Write a one-picture summary of the page."""
    bars = {
        "zero-shot, base classes": _estimate(demo.before["base"]),
        "SEP, base classes": _estimate(demo.after["base"]),
        "zero-shot, new classes": _estimate(demo.before["new"]),
        "SEP, new classes": _estimate(demo.after["new"]),
        **{f"{name}, all classes": Estimate.of(classifier.results["tuned"]) for name, classifier in demo.heads.items()},
    }
    histories = {name: classifier.results["history"] for name, classifier in demo.heads.items()}
    caption = f"{demo.name}, {demo.shots} shots. Pictures: test images with the predictions of SEP.\nToy backbones."
    summary_picture(path, bars, histories, demo.shown, caption)


def train_command(values: Mapping[str, Any], name: str) -> str:
    """Return the command line that trains on a task like ``tune`` with these arguments."""
    flat = {**values, **{f"options.{option}": value for option, value in values["options"].items()}}
    words = [f"--{key.replace('_', '-')} {quoted(value)}" for key, value in flat.items() if key != "options"]
    return " ".join(["selfprompt train", name, *words, f"--out {output_folder(values, name)}"])


def output_folder(values: Mapping[str, Any], name: str) -> str:
    """Return an output folder for a user's run, since the demo's folder has a finished one."""
    return f"{name.rpartition('/')[2]}-{values['method']}"


def predict_command(folder: Path, images: Sequence[Path], classes: Sequence[str]) -> str:
    """Return the command line that classifies images with SEP and other class names."""
    paths = " ".join(map(quoted, images))
    names = ",".join(f'"{name}"' if "," in name else name for name in classes)
    return f"selfprompt predict {quoted(folder / 'sep')} {paths} --top 3 --classes {quoted(names)}"


def quoted(value: object) -> str:
    """Return a value quoted for the shell."""
    return shlex.quote(str(value))


def _command(demo: DemoResults, method: str) -> str:
    return folded(train_command(demo.settings[method], demo.name))


def _python(demo: DemoResults, method: str) -> str:
    """Return the Python code of a training."""
    values = {**demo.settings[method], "out": output_folder(demo.settings[method], demo.name)}
    lines = "".join(f"    {key}={value!r},\n" for key, value in values.items() if value != {})
    return f"import selfprompt\n\nselfprompt.tune(\n    {demo.name!r},\n{lines})"


def folded(command: str) -> str:
    """Break a command line before options, with backslashes, into lines of up to ``WIDTH`` characters."""
    first, *options = command.split(" --")
    lines = [first]
    for option in options:
        if len(lines[-1]) + len(option) + 5 <= WIDTH:
            lines[-1] += f" --{option}"
        else:
            lines.append(f"  --{option}")
    return " \\\n".join(lines)


def _captioned(image: Any, truth: str, predicted: str) -> Picture:
    wrong = predicted != truth
    return Picture(image, f"{predicted} (is {truth})" if wrong else predicted, wrong=wrong)


def _estimate(metrics: Metrics) -> Estimate:
    return Estimate(metrics.accuracy, *metrics.interval)
