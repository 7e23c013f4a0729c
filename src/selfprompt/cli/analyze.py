"""``selfprompt analyze``: shows what the prompts of a tuned classifier do, as pictures and a page."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output
from selfprompt.cli.saved_classifier import add_classifier_argument, add_loading_options, load_saved_classifier
from selfprompt.cli.usage import check_at_least

if TYPE_CHECKING:
    from selfprompt.data.dataset import Item
    from selfprompt.inference.classifier import Classifier
    from selfprompt.reports.analysis_page import AnalysisInputs


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    add_classifier_argument(parser)
    parser.add_argument(
        "--images",
        type=str | None,
        help="images to analyse: a folder, a manifest or a task; default: test images of the training data",
    )
    parser.add_argument("--count", type=int, default=6, help="number of images, spread evenly over the given ones")
    parser.add_argument("--words", type=int, default=5, help="number of nearest words to show for each text prompt")
    parser.add_argument(
        "--out",
        type=str | None,
        help="output folder for pictures and page; default: analysis/ in the classifier's folder",
    )
    add_loading_options(parser)


def analyze(options: Namespace) -> int:
    """Run the command."""
    check_at_least(options, 1, "count", "words")
    folder = Path(options.classifier)
    if not folder.is_dir() and options.out is None:
        raise ValueError(
            f"{folder} is not a folder. Give the output folder of selfprompt train; "
            "hf-hub:owner/name needs --out, the folder to write to."
        )
    from selfprompt.reports.analysis_page import make_sections, write_analysis

    output = Output()
    classifier = load_saved_classifier(options, output)
    output.note(classifier.method, classifier.batch_size)
    inputs = analysis_inputs(options, classifier, folder, output)
    with output.stage("analysing") as progress:
        sections, left_out = make_sections(inputs, progress)
    for sentence in left_out:
        output.message(sentence)
    out = folder / "analysis" if options.out is None else Path(options.out)
    written = write_analysis(out, inputs, sections, left_out)
    output.message(
        f"Wrote {', '.join(path.name for path in written[:-1])}{' and ' if written[:-1] else ''}{written[-1]}"
    )
    return 0


def analysis_inputs(options: Namespace, classifier: "Classifier", folder: Path, output: Output) -> "AnalysisInputs":
    """Run the images through the method if it has image prompts.

    Raises:
        ValueError: If the method has no prompts, or it needs images and there are none.
    """
    import torch

    from selfprompt.analysis.tower_runs import run_with_prompts, run_without_prompts
    from selfprompt.analysis.words import input_prompts
    from selfprompt.data.loading.transforms import eval_transform
    from selfprompt.reports.analysis_page import AnalysedImages, AnalysisInputs
    from selfprompt.training.checkpoint import read_epochs

    method = classifier.method.eval()
    command = shlex.join(["selfprompt", "analyze", options.classifier, *_changed_arguments(options)])
    blank = torch.zeros(1, 3, *method.image_size, device=classifier.device)
    if run_with_prompts(method, blank) is None:
        if not input_prompts(method):
            raise ValueError(f"{method.name} has no prompts to analyse.")
        return AnalysisInputs(method, None, {}, options.words, command)
    items, names = choose_images(options, classifier, folder, output)
    transform = eval_transform(classifier.preprocess)
    pixels = torch.stack([transform.pixels(item.load()) for item in items])  # (B, 3, S, S), uint8
    normalised = transform.normalise(pixels).to(classifier.device)
    with_prompts = run_with_prompts(method, normalised)
    assert with_prompts is not None
    pictures = pixels.permute(0, 2, 3, 1).numpy()
    analysed = AnalysedImages(
        normalised, pictures, tuple(names), with_prompts, run_without_prompts(method.vision, normalised)
    )
    return AnalysisInputs(method, analysed, read_epochs(folder), options.words, command)


def _changed_arguments(options: Namespace) -> list[str]:
    """Return the arguments that differ from their defaults."""
    defaults: dict[str, Any] = {"images": None, "count": 6, "words": 5, "out": None, "backbone": None, "device": "auto"}
    changed = {name: getattr(options, name) for name in defaults if getattr(options, name) != defaults[name]}
    words = [word for name, value in changed.items() for word in (f"--{name}", str(value))]
    return [*words, *(["--trust"] if options.trust else [])]


def choose_images(
    options: Namespace, classifier: "Classifier", folder: Path, output: Output
) -> tuple[list["Item"], list[str]]:
    """Return readable images, spread evenly over the given ones, and their captions.

    Raises:
        ValueError: If there are none, or their location is unknown.
    """
    from selfprompt.data.loading.check_images import check_images
    from selfprompt.data.loading.loader import ImageStore

    items, classes = images_of_option(options.images) if options.images else tuning_images(classifier, folder)
    count = min(options.count, len(items))
    items = [items[index * len(items) // count] for index in range(count)]
    good, bad = check_images(items, ImageStore(0), on_bad="skip")
    for image in bad:
        output.message(f"skipped {image}")
    if not good:
        raise ValueError("None of the images can be read. Give others with --images.")
    return list(good), [classes[item.label] if classes else Path(str(item.source)).stem for item in good]


def images_of_option(location: str) -> tuple[Sequence["Item"], Sequence[str]]:
    """Return the images of ``--images``, and class names if they are labelled."""
    from selfprompt.data.dataset import Item
    from selfprompt.data.readers.manifest import MANIFEST_SUFFIXES
    from selfprompt.data.readers.read import is_task, read_dataset
    from selfprompt.inference.image_paths import image_paths

    if is_task(location) or Path(location).suffix.lower() in MANIFEST_SUFFIXES:
        dataset = read_dataset(location, holdout=0.0)
        return dataset.test or dataset.select("all"), dataset.classes
    return [Item(Path(path), 0) for path in image_paths([location])], ()


def tuning_images(classifier: "Classifier", folder: Path) -> tuple[Sequence["Item"], Sequence[str]]:
    """Return the test images, or else the training images, of the data that the classifier was tuned on.

    Raises:
        ValueError: If their location is unknown, or they are no longer there.
    """
    from selfprompt.data.readers.read import is_task, read_dataset
    from selfprompt.training.tune import RESULT
    from selfprompt.utils.json_files import read_json

    result = folder / RESULT
    record = read_json(result, advice="Give --images.") if result.is_file() else {}
    location = record.get("data") if isinstance(record, dict) else None
    if not (location and isinstance(location, str)):
        raise ValueError(f"{folder} does not record which images it was tuned on. Give --images.")
    if not (is_task(location) or Path(location).exists()):
        raise ValueError(f"The images that {folder} was tuned on are no longer at {location}. Give --images.")
    recipe = classifier.recipe
    if not {"holdout", "seed"} <= recipe.keys():
        raise ValueError(f"{folder} does not record how its images were split. Give --images.")
    names = recipe.get("class_names")
    dataset = read_dataset(
        location, classes=None if names is None else Path(names), holdout=recipe["holdout"], seed=recipe["seed"]
    )
    return dataset.test or dataset.train, dataset.classes
