"""A large prediction as a folder: its list of images, its parts, and any number of processes that make them.

    images.txt             the paths in order, one a line; a line break in one is a zero byte and n or r
    job.json               what the job is; written by the first process, the same for all later ones
    part-00000.csv, ...    predictions of ``part_size`` images each, or .jsonl
    summary.json           counts; written last, when all parts are there

Nothing else is needed to go on: a part is there, whole, or not. A process claims a part with a lock that dies with it,
so every part is made once, and what a killed process had begun is begun again by another. Batches begin anew in each
part: a part depends on its own images only, whoever makes it.
"""

import csv
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from selfprompt.inference.image_paths import PathIndex
from selfprompt.inference.predictions import ERROR_COLUMN, Prediction, as_csv, as_lines, csv_header
from selfprompt.utils.csv_text import guarded
from selfprompt.utils.files import write_atomically, write_json
from selfprompt.utils.json_files import read_json
from selfprompt.utils.locks import claimed

FORMAT = 1
JOB, LIST, SUMMARY = "job.json", "images.txt", "summary.json"
START_LOCK, END_LOCK = ".start.lock", ".end.lock"
MAKE_ANEW = "Delete it: repeating the command makes it anew."
POLL = 0.5
"""Seconds between two looks at the parts that other processes are making."""

Predict = Callable[[Iterable[str]], Iterator[list[Prediction]]]
"""Paths -> predictions, batch by batch, in order."""


@dataclass(frozen=True)
class JobSpec:
    """What decides the content of the parts, beside the images.

    Attributes:
        classifier: Hash of its configuration, which holds the hashes of its tensors and of its backbone.
        classes: Names, in order.
        top: How many classes each image gets.
        form: How parts are written: "csv" or "jsonl".
        part_size: Images in a part.
        guard: Whether names in CSV are guarded against spreadsheets.
    """

    classifier: str
    classes: tuple[str, ...]
    top: int
    form: Literal["csv", "jsonl"]
    part_size: int
    guard: bool = False


class Job:
    """A job whose terms and images are fixed; ``open_job`` makes one."""

    def __init__(self, folder: Path, spec: JobSpec, index: PathIndex) -> None:
        self.folder = folder
        self.spec = spec
        self.count = index.count
        self.parts = len(index.starts)
        self._index = index

    def path(self, number: int) -> Path:
        """Where a part is, or will be."""
        return self.folder / f"part-{number:05d}.{self.spec.form}"

    def size(self, number: int) -> int:
        """Images in a part."""
        return min(self.spec.part_size, self.count - number * self.spec.part_size)

    def images(self, number: int) -> list[str]:
        """The paths of a part's images."""
        with (self.folder / LIST).open("rb") as file:
            return self._index.group(number, file)

    def finished(self) -> int:
        """Images in the parts that are there."""
        there = set(os.listdir(self.folder))
        return sum(self.size(number) for number in range(self.parts) if self.path(number).name in there)

    @property
    def is_done(self) -> bool:
        """Whether all parts are there."""
        return all(self.path(number).exists() for number in range(self.parts))


def open_job(folder: Path, spec: JobSpec, paths: Iterable[str]) -> Job:
    """Begin a job, or find the one that was begun with the same terms and images.

    Args:
        folder: Of the job; is made.
        terms: What is wanted.
        paths: The images; gone through once, and not kept.

    Raises:
        ValueError: If there are no images, or the folder holds another job.
        RuntimeError: If a file cannot be written.
    """
    index = PathIndex(spec.part_size)
    lines = index.lines(paths)
    if not (folder / JOB).exists():
        with claimed(folder / START_LOCK, wait=True):
            if not (folder / JOB).exists():
                _begin(folder, spec, index, lines)
                return Job(folder, spec, index)
    for _ in lines:
        pass
    _check_same(folder, _record(spec, index))
    return Job(folder, spec, index)


def _begin(folder: Path, spec: JobSpec, index: PathIndex, lines: Iterator[bytes]) -> None:
    first = next(lines, None)
    if first is None:
        raise ValueError("There are no images to predict: the list is empty.")
    write_atomically(folder / LIST, chain([first], lines))
    write_json(folder / JOB, _record(spec, index))


def _record(spec: JobSpec, index: PathIndex) -> dict[str, Any]:
    classes = list(spec.classes)
    return {"format": FORMAT, **asdict(spec), "classes": classes, "count": index.count, "list_sha256": index.sha256}


def _check_same(folder: Path, wanted: dict[str, Any]) -> None:
    """Raise ValueError unless the folder holds the job that is wanted."""
    try:
        found = {"guard": False, **read_json(folder / JOB, advice="Give another folder.")}  # which came later
        others = [key for key in wanted if found[key] != wanted[key]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{folder / JOB} is damaged ({error}); give another folder with --out.") from error
    if others:
        told = [
            f"its {key} is {found[key]!r}, not {wanted[key]!r}"
            if isinstance(wanted[key], int) or key == "form"
            else f"its {key} {'are' if key == 'classes' else 'is'} not the same"
            for key in others
        ]
        raise ValueError(
            f"{folder} holds another job: {'; '.join(told)}. Repeat the first command to go on with it, or give "
            "another folder with --out."
        )


def run_job(job: Job, predict: Predict, progress: Callable[[int], None] = lambda own: None) -> None:
    """Make parts until all are there, whoever makes them; several processes may do so on one folder.

    Args:
        job: Whose parts.
        predict: Such as ``Classifier.stream``.
        progress: Called now and then with the number of images that this process has done in the part that it makes.

    Raises:
        RuntimeError: If a part cannot be written.
    """
    waiting = list(range(job.parts))
    while True:
        waiting = [number for number in waiting if not _attempt(job, number, predict, progress)]
        if not waiting:
            return
        progress(0)
        time.sleep(POLL)  # others are at them; should one die, its part is free


def _attempt(job: Job, number: int, predict: Predict, progress: Callable[[int], None]) -> bool:
    """Make a part if it is nobody's; whether it is there now."""
    path = job.path(number)
    if path.exists():
        return True
    lock = path.with_name(f".{path.name}.lock")
    with claimed(lock) as mine:
        if not mine:
            return False
        if not path.exists():  # it may have come between the look above and the claim
            write_atomically(path, _content(job, predict(job.images(number)), progress))
        lock.unlink(missing_ok=True)  # the part is there: whoever claims it once more leaves it alone
    return True


def _content(job: Job, batches: Iterator[list[Prediction]], progress: Callable[[int], None]) -> Iterator[bytes]:
    """A part's bytes, batch by batch."""
    as_table = job.spec.form == "csv"
    if as_table:
        yield csv_header(errors=True).encode()
    done = 0
    for batch in batches:
        text = as_csv(batch, errors=True, guard=job.spec.guard) if as_table else as_lines(batch)
        yield text.encode(errors="backslashreplace")  # names may be no Unicode
        done += len(batch)
        progress(done)


def finish_job(job: Job, *, merge: bool = False) -> dict[str, Any]:
    """Count what the parts hold and write ``summary.json``; the process that comes first does it for all.

    Args:
        job: All of whose parts are there.
        merge: Whether to write the parts into one file beside them too, ``predictions.csv`` or ``.jsonl``.

    Returns:
        The summary: numbers of images, of parts and of unreadable images, and how many images each class was found on.
    """
    with claimed(job.folder / END_LOCK, wait=True):
        if not (job.folder / SUMMARY).exists():
            write_json(job.folder / SUMMARY, _summary(job))
        if merge and not merged_file(job).exists():
            write_atomically(merged_file(job), _merged(job))
    summary = read_json(job.folder / SUMMARY, advice=MAKE_ANEW)
    counts = [summary.get(key) for key in ("images", "parts", "unreadable")] if isinstance(summary, dict) else [None]
    if not all(type(count) is int for count in counts):
        raise ValueError(f"{job.folder / SUMMARY} is damaged: it holds no counts. {MAKE_ANEW}")
    return dict(summary)


def merged_file(job: Job) -> Path:
    """Where all predictions stand together, if that was asked for."""
    return job.folder / f"predictions.{job.spec.form}"


def _merged(job: Job) -> Iterator[bytes]:
    """The lines of all parts, under one header."""
    for number in range(job.parts):
        with job.path(number).open("rb") as file:
            if job.spec.form == "csv" and number:
                file.readline()
            yield from file


def _summary(job: Job) -> dict[str, Any]:
    labels: Counter[str] = Counter()
    unreadable = 0
    for label in chain.from_iterable(_labels(job.path(number)) for number in range(job.parts)):
        if label is None:
            unreadable += 1
        else:
            labels[label] += 1
    is_guarded = job.spec.guard and job.spec.form == "csv"
    found = {name: labels[guarded(name) if is_guarded else name] for name in dict.fromkeys(job.spec.classes)}
    return {"images": job.count, "parts": job.parts, "unreadable": unreadable, "labels": found}


def _labels(part: Path) -> Iterator[str | None]:
    """The most likely class of each image of a part; None for the unreadable ones.

    Raises:
        ValueError: If the part is damaged.
    """
    try:
        with part.open(encoding="utf-8", newline="") as file:
            if part.suffix == ".jsonl":
                yield from (json.loads(line).get("label") for line in file)
                return
            for row in csv.DictReader(file):
                if row[ERROR_COLUMN]:
                    yield None
                elif row["rank"] == "1":
                    yield row["label"]
    except (ValueError, KeyError, AttributeError, RecursionError, csv.Error) as error:
        raise ValueError(f"{part} is damaged. Delete it and repeat the command, which makes it anew.") from error
