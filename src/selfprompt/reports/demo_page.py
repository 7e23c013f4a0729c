"""The results of a demo and the page that shows them; every number comes from the run itself."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from selfprompt.metrics import Metrics, harmonic_mean
from selfprompt.reports.accuracy import ACCURACY_COLUMNS, accuracy_cells
from selfprompt.reports.html import Bar, Block, Picture, bars, code, figure, link, pictures, table, text, write_page
from selfprompt.reports.plots import Estimate, training_curves
from selfprompt.reports.result_page import comparison, lead
from selfprompt.reports.summary_picture import summary_picture

if TYPE_CHECKING:
    from selfprompt.data.dataset import Dataset
    from selfprompt.data.suites.task import SuiteTask

REAL = "open_clip/ViT-B-16/openai"
TOY = (
    "The backbones of this page are toys: small models of the package that need no download. The page shows how "
    "selfprompt works, not how good prompt tuning is."
)
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
        task: Task of the demo, with the images that were written to the folder of photos.
        halves: Its base and new classes, under "base" and "new".
        shots, seed: Options of the command.
        auto, sep: Content of the result.json of the classifier that ``auto`` chose, and of SEP on the base classes.
        before, after: Metrics on base and new classes, zero-shot and with SEP.
        bench: Results of the methods on the ViT without text, by name, with metrics under "tuned".
        commands: The command lines by name.
        folder: Output folder with the classifiers.
        links: Other pages by name, relative to the folder.
        unseen: Predictions for classes that were not trained.
        shown: Test images with the true and the predicted class.
        fast: Whether training was cut short.
        seconds: Duration of the demo.
    """

    task: "SuiteTask"
    halves: "Mapping[str, Dataset]"
    shots: int
    seed: int
    auto: Mapping[str, Any]
    sep: Mapping[str, Any]
    before: Mapping[str, Metrics]
    after: Mapping[str, Metrics]
    bench: Mapping[str, Mapping[str, Any]]
    commands: Mapping[str, str]
    folder: Path
    links: Mapping[str, str]
    unseen: Sequence[UnseenPrediction]
    shown: Sequence[tuple[Any, str, str]]
    fast: bool = False
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Name of the task on the command line."""
        return f"{self.task.suite}/{self.task.name}"

    @property
    def command(self) -> str:
        """Command line of the demo."""
        fast = " --fast" if self.fast else ""
        return f"selfprompt demo --task {self.name} --shots {self.shots} --seed {self.seed}{fast}"

    @property
    def note(self) -> str:
        """Warning about the backbones, shown at the top of the page."""
        return f"--fast cut training short, so the accuracies mean nothing. {TOY}" if self.fast else TOY

    def record(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        halves = {"before": self.before, "after": self.after}
        return {
            "finished": True,
            "task": self.name,
            "shots": self.shots,
            "seed": self.seed,
            "seconds": self.seconds,
            "commands": dict(self.commands),
            "auto": {name: self.auto.get(name) for name in ("method", "tuned", "zero_shot", "ridge", "selection")},
            **{key: {name: m.to_json() for name, m in by_name.items()} for key, by_name in halves.items()},
            "bench": {name: result["tuned"] for name, result in self.bench.items()},
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


def write_demo_page(demo: DemoResults, path: Path) -> None:
    """Write the page."""
    sections = [
        ("Overview", _overview(demo)),
        ("A folder of photos, and the best classifier for it", _auto(demo)),
        ("Class names that were not trained", [*_halves(demo), *_unseen(demo)]),
        ("For researchers: SPT next to VPT and a linear probe", _bench(demo)),
        ("Your images and a full-size backbone", _yours()),
    ]
    seconds = f"{demo.seconds:.0f} s" if demo.seconds else ""
    facts = [("date", date.today().isoformat()), ("seed", str(demo.seed)), ("command", demo.command)]
    facts += [("duration", seconds)] if seconds else []
    title = f"selfprompt demo: {demo.task.name.replace('_', ' ')}"
    write_page(path, title, sections, demo.note, facts=facts)


def _overview(demo: DemoResults) -> list[Block]:
    return [
        text(
            "selfprompt adapts a frozen model to your images. Each part of this page shows a command and what came of "
            "it, with the settings that everybody gets. Test images were used for testing only; nothing was selected "
            "on them."
        ),
        text(
            f"The task: {demo.name}, {len(demo.task.dataset.classes)} classes, {demo.shots} training images per "
            "class if available."
        ),
        *(text(note) for note in dict.fromkeys((*demo.task.dataset.notes, demo.task.source)) if note),
    ]


def _auto(demo: DemoResults) -> list[Block]:
    return [
        text(
            "`photos` has a folder of images for each class. `train` compares methods by cross-validation on the "
            "training images and trains the best one on all of them:"
        ),
        code(folded(demo.commands["auto"])),
        *lead(demo.auto),
        *comparison(demo.auto["selection"]),
        text("Random test images with its predictions:"),
        pictures([_captioned(*shown) for shown in demo.shown]),
        link(demo.links["report"], "The whole page of this result"),
    ]


def _halves(demo: DemoResults) -> list[Block]:
    halves, results = demo.halves, demo.sep
    return [
        text(
            f"SEP tunes prompts in both encoders of a CLIP. It trained {results['trainable_parameters']:,} parameters "
            f"on {results['images']['train']} images of the {len(halves['base'].classes)} base classes in "
            f"{results['train_seconds']:.0f} s. The other {len(halves['new'].classes)} classes, the new ones, are "
            "given by name only. H is the harmonic mean of both accuracies: it is high only if the base classes "
            "improve and the new ones are not forgotten."
        ),
        code(folded(demo.commands["sep"])),
        table(HALF_COLUMNS, half_rows(demo.before, demo.after)),
        text(_verdict(demo)),
        figure(
            training_curves({"SEP": results["history"]}),
            "Total training loss, and accuracy on the training images.",
            "Curves of training loss and accuracy over the epochs",
        ),
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
    words = predict_words(demo.folder / "sep", [unseen.path for unseen in demo.unseen], demo.halves["new"].classes)
    return [
        text("The saved classifier gets the names of the new classes. Nothing is trained. The images are random."),
        pictures(images),
        code(folded(shlex.join(["selfprompt", *words]))),
    ]


def _bench(demo: DemoResults) -> list[Block]:
    rows = [
        [
            name,
            f"{result['trainable_parameters']:,}",
            *accuracy_cells(result["tuned"]),
            f"{result['train_seconds']:.0f} s",
        ]
        for name, result in demo.bench.items()
    ]
    columns = ["method", "trainable parameters", *ACCURACY_COLUMNS[1:], "training"]
    shown = [Bar(name, m["accuracy"], *m["interval"]) for name, m in ((n, r["tuned"]) for n, r in demo.bench.items())]
    guessing = 100 / len(demo.task.dataset.classes)
    backbone = next(iter(demo.bench.values()))["backbone"]["name"]
    return [
        text(
            f"{backbone} is the encoder of a masked autoencoder. It has no text encoder, so methods train a head for "
            "a fixed set of classes. VPT initialises its prompts at random, SPT initialises as many prompts from "
            "tokens of the training images. The benchmark trains all methods with the same settings, for few epochs, "
            "so that it ends soon:"
        ),
        code(folded(demo.commands["bench"]) + "\n" + folded(demo.commands["report"])),
        table(columns, rows),
        bars(shown, "Test accuracy with 95 % intervals; dashed: guessing.", chance=guessing),
        figure(
            training_curves({name: result["history"] for name, result in demo.bench.items()}),
            "The number of epochs is the same for all.",
            "Curves of training loss and accuracy over the epochs",
        ),
        link(demo.links["bench"], "The whole page of the benchmark"),
    ]


def _yours() -> list[Block]:
    return [
        text("Put the images of each class in a folder, and choose a full-size backbone (downloaded once):"),
        code(
            f"selfprompt train photos --backbone {REAL} --out mine --html\n"
            "selfprompt predict mine new-photo.jpg --top 3"
        ),
        code(
            "import selfprompt\n\n"
            f'classifier = selfprompt.tune("photos", backbone="{REAL}")\n'
            'print(classifier.results["tuned"]["accuracy"], classifier.results["tuned"]["interval"])\n'
            'classifier.save("mine")'
        ),
    ]


def write_summary_picture(demo: DemoResults, path: Path) -> None:
    """Write a one-picture summary of the page."""
    floors = {"zero-shot, all classes": demo.auto.get("zero_shot"), "ridge, all classes": demo.auto.get("ridge")}
    shown = {
        **{name: Estimate.of(metrics) for name, metrics in floors.items() if metrics},
        f"auto ({demo.auto['method']}), all classes": Estimate.of(demo.auto["tuned"]),
        "zero-shot, new classes": _estimate(demo.before["new"]),
        "SEP, new classes": _estimate(demo.after["new"]),
        **{f"{name}, all classes": Estimate.of(result["tuned"]) for name, result in demo.bench.items()},
    }
    histories = {name: result["history"] for name, result in demo.bench.items()}
    caption = f"{demo.name}, {demo.shots} shots. Pictures: test images with the predictions of auto.\nToy backbones."
    summary_picture(path, shown, histories, demo.shown, caption)


def predict_words(folder: Path, images: Sequence[Path], classes: Sequence[str]) -> list[str]:
    """Return the arguments that classify images with a saved classifier and other class names."""
    names = ",".join(f'"{name}"' if "," in name else name for name in classes)
    return ["predict", str(folder), *map(str, images), "--top", "3", "--classes", names]


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
