"""Large prediction jobs: a folder with a list of images and parts that any number of processes write.

    images.txt             the paths in order, one per line; a line break in a path is a zero byte and n or r
    job.json               the specification of the job; written by the first process
    part-00000.csv, ...    predictions of ``part_size`` images each, or .jsonl
    summary.json           counts; written last, when all parts exist

A part is written atomically, so an interrupted job resumes with the missing parts. A process locks the part that it
writes; the lock dies with the process, so that another one can redo the part. Each part starts a new batch: it depends
on its own images only.
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
from selfprompt.utils.locks import lock_file

FORMAT = 1
JOB, LIST, SUMMARY = "job.json", "images.txt", "summary.json"
START_LOCK, END_LOCK = ".start.lock", ".end.lock"
LATER_KEYS = {"guard": False, "unknown": None, "coverage": None}
"""Keys that the specifications of older jobs do not have."""
ADVICE = "Delete it and repeat the command, which writes it again."
POLL = 0.5
"""Seconds between two checks of the parts that other processes are writing."""

Predict = Callable[[Iterable[str]], Iterator[list[Prediction]]]
"""From paths to predictions, batch by batch, in order."""


@dataclass(frozen=True)
class JobSpec:
    """Everything besides the images that determines the content of the parts.

    Attributes:
        classifier: Hash of the classifier's configuration, which has the hashes of its tensors and its backbone.
        classes: Class names, in order.
        top: Number of classes per image.
        form: Format of the parts: "csv" or "jsonl".
        part_size: Images per part.
        guard: Whether an apostrophe is put before names in CSV that a spreadsheet might run as formulas.
        unknown, coverage: As for ``Classifier.predict``.
    """

    classifier: str
    classes: tuple[str, ...]
    top: int
    form: Literal["csv", "jsonl"]
    part_size: int
    guard: bool = False
    unknown: float | None = None
    coverage: float | None = None


class Job:
    """A prediction job in a folder, as ``open_job`` returns it."""

    def __init__(self, folder: Path, spec: JobSpec, index: PathIndex) -> None:
        self.folder = folder
        self.spec = spec
        self.count = index.count
        self.parts = len(index.starts)
        self._index = index

    def path(self, number: int) -> Path:
        """Return the path of a part, which may not exist yet."""
        return self.folder / f"part-{number:05d}.{self.spec.form}"

    def size(self, number: int) -> int:
        """Return the number of images in a part."""
        return min(self.spec.part_size, self.count - number * self.spec.part_size)

    def images(self, number: int) -> list[str]:
        """Return the paths of the images of a part."""
        with (self.folder / LIST).open("rb") as file:
            return self._index.group(number, file)

    def finished(self) -> int:
        """Return the number of images in the finished parts."""
        existing = set(os.listdir(self.folder))
        return sum(self.size(number) for number in range(self.parts) if self.path(number).name in existing)

    @property
    def is_done(self) -> bool:
        """Whether all parts exist."""
        return all(self.path(number).exists() for number in range(self.parts))


def open_job(folder: Path, spec: JobSpec, paths: Iterable[str]) -> Job:
    """Start a job, or open the one in the folder if it has the same specification and images.

    Args:
        folder: Folder of the job; it is created.
        spec: Specification of the job.
        paths: Paths of the images; iterated once and not held in memory.

    Raises:
        ValueError: If there are no images, or the folder holds another job.
        RuntimeError: If a file cannot be written.
    """
    index = PathIndex(spec.part_size)
    lines = index.lines(paths)
    if not (folder / JOB).exists():
        with lock_file(folder / START_LOCK, wait=True):
            if not (folder / JOB).exists():
                _start(folder, spec, index, lines)
                return Job(folder, spec, index)
    for _ in lines:
        pass
    _check_same(folder, _record(spec, index))
    return Job(folder, spec, index)


def _start(folder: Path, spec: JobSpec, index: PathIndex, lines: Iterator[bytes]) -> None:
    first = next(lines, None)
    if first is None:
        raise ValueError("There are no images to predict: the list is empty.")
    write_atomically(folder / LIST, chain([first], lines))
    write_json(folder / JOB, _record(spec, index))


def _record(spec: JobSpec, index: PathIndex) -> dict[str, Any]:
    classes = list(spec.classes)
    return {"format": FORMAT, **asdict(spec), "classes": classes, "count": index.count, "list_sha256": index.sha256}


def _check_same(folder: Path, expected: dict[str, Any]) -> None:
    """Raise ValueError unless the folder holds the expected job."""
    try:
        stored = {**LATER_KEYS, **read_json(folder / JOB, advice="Use another folder.")}
        different = [key for key in expected if stored[key] != expected[key]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{folder / JOB} is damaged ({error}); use another folder with --out.") from error
    if different:
        reasons = [
            f"its {key} is {stored[key]!r}, not {expected[key]!r}"
            if isinstance(expected[key], int) or key in ("form", "unknown", "coverage")
            else f"its {key} {'are' if key == 'classes' else 'is'} not the same"
            for key in different
        ]
        raise ValueError(
            f"{folder} holds another job: {'; '.join(reasons)}. Repeat the first command to resume it, or use "
            "another folder with --out."
        )


def run_job(job: Job, predict: Predict, progress: Callable[[int], None] = lambda done: None) -> None:
    """Write parts until all exist; several processes may work on one folder.

    Args:
        job: The job.
        predict: A function such as ``Classifier.stream``.
        progress: Called with the number of images that this process has predicted in its current part.

    Raises:
        RuntimeError: If a part cannot be written.
    """
    missing = list(range(job.parts))
    while True:
        missing = [number for number in missing if not _write_part(job, number, predict, progress)]
        if not missing:
            return
        progress(0)
        time.sleep(POLL)  # other processes write them; the lock of one that dies is released


def _write_part(job: Job, number: int, predict: Predict, progress: Callable[[int], None]) -> bool:
    """Write a part unless it exists or is locked by another process; return whether it exists now."""
    path = job.path(number)
    if path.exists():
        return True
    lock = path.with_name(f".{path.name}.lock")
    with lock_file(lock) as mine:
        if not mine:
            return False
        if not path.exists():  # it may have been written since the check above
            write_atomically(path, _content(job, predict(job.images(number)), progress))
        lock.unlink(missing_ok=True)  # the part exists: a process that locks it again does nothing
    return True


def _content(job: Job, batches: Iterator[list[Prediction]], progress: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the bytes of a part, batch by batch."""
    is_csv = job.spec.form == "csv"
    if is_csv:
        yield csv_header(errors=True).encode()
    done = 0
    for batch in batches:
        text = as_csv(batch, errors=True, guard=job.spec.guard) if is_csv else as_lines(batch)
        yield text.encode(errors="backslashreplace")  # file names may not be valid Unicode
        done += len(batch)
        progress(done)


def finish_job(job: Job, *, merge: bool = False) -> dict[str, Any]:
    """Count the predictions in the parts and write ``summary.json``, if no other process has done so.

    Args:
        job: A job whose parts all exist.
        merge: Whether to write all parts into one file, too: ``predictions.csv`` or ``.jsonl``.

    Returns:
        The summary: numbers of images, parts and unreadable images, and the number of images of each predicted class;
        of unknown images, too, if the job looks for them.

    Raises:
        ValueError: If a part or the summary is damaged.
    """
    with lock_file(job.folder / END_LOCK, wait=True):
        if not (job.folder / SUMMARY).exists():
            write_json(job.folder / SUMMARY, _summary(job))
        if merge and not merged_file(job).exists():
            write_atomically(merged_file(job), _merged(job))
    summary = read_json(job.folder / SUMMARY, advice=ADVICE)
    counts = [summary.get(key) for key in ("images", "parts", "unreadable")] if isinstance(summary, dict) else [None]
    if not all(type(count) is int for count in counts):
        raise ValueError(f"{job.folder / SUMMARY} is damaged: it has no counts. {ADVICE}")
    return dict(summary)


def merged_file(job: Job) -> Path:
    """Return the path of the file with all predictions, written by ``finish_job(merge=True)``."""
    return job.folder / f"predictions.{job.spec.form}"


def _merged(job: Job) -> Iterator[bytes]:
    """Yield the lines of all parts, under one header."""
    for number in range(job.parts):
        with job.path(number).open("rb") as file:
            if job.spec.form == "csv" and number:
                file.readline()
            yield from file


def _summary(job: Job) -> dict[str, Any]:
    labels: Counter[str] = Counter()
    unreadable = unknown = 0
    for label in chain.from_iterable(_labels(job.path(number)) for number in range(job.parts)):
        if label is None:
            unreadable += 1
        elif not label:  # class names are not empty
            unknown += 1
        else:
            labels[label] += 1
    is_guarded = job.spec.guard and job.spec.form == "csv"
    counts = {name: labels[guarded(name) if is_guarded else name] for name in dict.fromkeys(job.spec.classes)}
    summary = {"images": job.count, "parts": job.parts, "unreadable": unreadable}
    return summary | ({} if job.spec.unknown is None else {"unknown": unknown}) | {"labels": counts}


def _labels(part: Path) -> Iterator[str | None]:
    """Yield the most likely class of each image in a part; None for an unreadable image, "" for an unknown one.

    Raises:
        ValueError: If the part is damaged.
    """
    try:
        with part.open(encoding="utf-8", newline="") as file:
            if part.suffix == ".jsonl":
                yield from ("" if record.get("unknown") else record.get("label") for record in map(json.loads, file))
                return
            for row in csv.DictReader(file):
                if row[ERROR_COLUMN]:
                    yield None
                elif not row["rank"]:
                    yield ""
                elif row["rank"] == "1":
                    yield row["label"]
    except (ValueError, KeyError, AttributeError, RecursionError, csv.Error) as error:
        raise ValueError(f"{part} is damaged. {ADVICE}") from error
