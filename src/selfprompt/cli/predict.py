"""``selfprompt predict``: what do these images show?"""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from selfprompt.cli.show import Show, make_console, table

if TYPE_CHECKING:
    from selfprompt.classifier import Prediction


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("classifier", type=str, help="folder that `selfprompt train` wrote, or a hub repository")
    parser.add_argument("images", type=str, nargs="+", help="image files, or folders of them")
    parser.add_argument("--classes", type=str | None, help='other class names: a,b,"c, d"; no training needed')
    parser.add_argument("--top", type=int, default=1, help="how many classes to show for each image")
    parser.add_argument("--format", type=Literal["table", "json", "csv"], default="table", help="form of the output")
    parser.add_argument("--backbone", type=str | None, help="where the backbone is now, if it has moved")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, or auto")
    parser.add_argument(
        "--on_bad_image",
        type=Literal["skip", "fail"],
        default="skip",
        help="report unreadable images, or stop",
    )


def predict(options: Namespace) -> int:
    """Run the command; the status is 1 when no image could be read."""
    if options.top < 1:
        raise ValueError(f"--top must be at least 1, got {options.top}.")
    paths = image_files(options.images)
    from selfprompt.classifier import load

    show = Show(make_console(stderr=True))
    with show.stage("loading"):
        classifier = load(options.classifier, backbone=options.backbone, device=options.device)
    if options.classes is not None:
        classifier = classifier.with_classes(class_names(options.classes))
    show.note(classifier.method, classifier.batch_size)
    with show.stage("predicting") as progress:
        predictions = classifier.predict(paths, top=options.top, progress=progress)
    bad = [p for p in predictions if p.error]
    for prediction in bad:
        show.say(
            f"{'cannot read' if options.on_bad_image == 'fail' else 'skipped'} {prediction.image}: {prediction.error}"
        )
    if bad and options.on_bad_image == "fail":
        raise ValueError(f"{len(bad)} of {len(paths)} images cannot be read.")
    write(predictions, options.format)
    return 1 if len(bad) == len(predictions) else 0


def class_names(text: str) -> list[str]:
    """Names out of ``a,b,c``; a name that holds a comma stands in quotes: ``"salt, pepper",b``."""
    return [name.strip() for line in csv.reader([text], skipinitialspace=True) for name in line if name.strip()]


def image_files(names: Sequence[str]) -> list[Path]:
    """The files named, and the images below the folders named.

    Raises:
        ValueError: If something named does not exist, or a folder has no images.
    """
    from selfprompt.data.images import EXTENSIONS

    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
            if not found:
                raise ValueError(f"{path} has no images ({', '.join(sorted(EXTENSIONS))}).")
            paths += found
        elif path.exists():
            paths.append(path)
        else:
            raise ValueError(f"{path}: there is no such file or folder.")
    return paths


def write(predictions: "Sequence[Prediction]", form: str) -> None:
    """Write predictions to the standard output."""
    if form == "json":
        records = [as_record(p) for p in predictions]
        print(json.dumps(records, indent=2, ensure_ascii=False))
        return
    good = [p for p in predictions if not p.error]
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "rank", "label", "score"])
        for p in good:
            writer.writerows([p.image, rank, label, f"{score:.6f}"] for rank, (label, score) in enumerate(p.top, 1))
        sys.stdout.write(text.getvalue())
        return
    make_console().print(prediction_table(good))


def prediction_table(predictions: "Sequence[Prediction]") -> Table:
    """Images with their most likely classes."""
    rows = [
        [p.image if rank == 0 else "", label, f"{100 * score:.1f} %"]
        for p in predictions
        for rank, (label, score) in enumerate(p.top)
    ]
    return table("", ["image", "class", "probability"], rows)


def as_record(prediction: "Prediction") -> dict[str, object]:
    """A prediction as JSON values."""
    if prediction.error:
        return {"image": prediction.image, "error": prediction.error}
    top = [list(pair) for pair in prediction.top]
    return {"image": prediction.image, "label": prediction.label, "score": prediction.score, "top": top}
