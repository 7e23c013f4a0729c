"""Reads lists of training images in the format of 2SFS's public splits; imports no torch.

``split_fewshot/shot_K-seed_S_train.jsonl`` has one JSON object a line, with the image's path relative to the folder of
all data sets (``_impath``) and its label (``_label``). Format: the released code FarinaMatteo/rethinking_fewshot_vlms
(Farina et al. 2025, arXiv 2503.11609). The files are untrusted: only images of the task's training split are taken.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfprompt.benchmarks.strict import SplitFile
from selfprompt.data.dataset import Dataset, Item
from selfprompt.data.suites.locate import safe_path
from selfprompt.utils.json_files import parse_json

LARGEST = 1 << 26
"""Bytes of a file; 16 images of each of ImageNet's classes take a few million."""
KINDS = {"_impath": str, "_label": int}


def find_split_file(folder: Path, names: tuple[str, ...], shots: int, seed: int) -> SplitFile:
    """Find the list of a data set, by its number of shots and its seed.

    Args:
        folder: The folder that holds a folder for each data set, or the lists of one data set.
        names: Names that the data set's folder may have.
        shots: Training images per class.
        seed: Seed of the draw.

    Raises:
        ValueError: If there is none, or it cannot be read.
    """
    file = f"shot_{shots}-seed_{seed}_train.jsonl"
    places = [folder / name / "split_fewshot" / file for name in names]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise ValueError(
            f"{places[0]} is missing: --splits must be a folder with NAME/split_fewshot/{file} for each data set. "
            "2SFS has lists for 1, 2, 4, 8 and 16 shots and the seeds 1, 2 and 3; choose others without --splits."
        )
    return SplitFile(str(found), hashlib.sha256(_content(found)).hexdigest())


def read_split_file(file: SplitFile, dataset: Dataset, root: Path) -> tuple[Item, ...]:
    """Return the listed images, in their order; one may be listed more often.

    Args:
        file: The list.
        dataset: The data set; the images must be in its training split.
        root: The folder of all data sets, which paths are relative to.

    Raises:
        ValueError: If the file changed or a line is malformed, or an image is missing, outside the folder, not a
            training image of the data set, or has another label there.
    """
    path = Path(file.path)
    content = _content(path)
    if hashlib.sha256(content).hexdigest() != file.digest:
        raise ValueError(f"{path} changed while the benchmark ran. Repeat the command.")
    pool = {item.source: item for item in dataset.train}
    items = tuple(_find_item(values, pool, root, f"{path}, line {number}") for number, values in _lines(content, path))
    missing = [name for label, name in enumerate(dataset.classes) if label not in {item.label for item in items}]
    if missing:
        raise ValueError(f"{path} lists no image of {missing[0]!r}, a class of {dataset.name}.")
    return items


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(content) > LARGEST:
        raise ValueError(f"{path} must have at most {LARGEST:,} bytes.")
    return content


def _lines(content: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the values of each line that is not empty."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} must be a JSON object: {error}.") from None
        kinds = {key: type(values.get(key)) for key in KINDS} if isinstance(values, dict) else {}
        if kinds != KINDS:
            shown = line[:200].decode(errors="backslashreplace")
            raise ValueError(f"{path}, line {number} must have _impath, a text, and _label, a number, got {shown}.")
        yield number, values


def _find_item(values: dict[str, Any], pool: dict[Any, Item], root: Path, where: str) -> Item:
    """Return the item of the training split that a line names."""
    image = safe_path(root, values["_impath"], where)
    item = pool.get(image)
    if item is None:
        fault = "is not in the training split of the data set" if image.is_file() else "is missing"
        raise ValueError(f"{where}: {image} {fault}. Its path must be relative to {root}.")
    if item.label != values["_label"]:
        raise ValueError(f"{where}: {image} has the label {item.label} in the data set, got {values['_label']}.")
    return item
