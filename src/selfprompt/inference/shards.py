"""The shards of a large prediction: anybody may do any of them, in any order.

    shard-00003-of-00064.csv           predictions of a shard, or .jsonl, or .parquet
    shard-00003-of-00064.json          its counts and checksum: the shard is done; written after it
    summary.json                       counts of the whole job, when all shards are done
    predictions.csv                    all shards in one file, on request

A shard is a pure function of the specification, the list and its number. Files are written under temporary names and
renamed, so doing a shard twice, even at the same time, leaves one whole copy. Nothing is locked.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfprompt.data.loading.archived_images import Columns
from selfprompt.inference.image_groups import image_groups
from selfprompt.inference.jobs import Job, JobSpec, write_shared_json
from selfprompt.inference.parquet_rows import as_parquet, merged_parquet
from selfprompt.inference.predictions import Prediction, as_csv, as_lines, csv_header
from selfprompt.utils.files import write_atomically
from selfprompt.utils.json_files import read_json

SUMMARY = "summary.json"
ADVICE = "Delete it and repeat the command, which writes it again."

Predict = Callable[[Iterable[Iterable[Any]]], Iterator[list[Prediction]]]
"""From groups of images, each of which begins a new batch, to predictions, batch by batch, in order."""


@dataclass(frozen=True)
class Counts:
    """Numbers of images in a shard or a job.

    Attributes:
        images: All.
        unreadable: Those without a prediction.
        unknown: Those unlike the trained classes.
        labels: Those of each predicted class.
    """

    images: int = 0
    unreadable: int = 0
    unknown: int = 0
    labels: Mapping[str, int] | None = None

    def __add__(self, other: "Counts") -> "Counts":
        labels = Counter(self.labels or {}) + Counter(other.labels or {})
        sums = (self.images + other.images, self.unreadable + other.unreadable, self.unknown + other.unknown)
        return Counts(*sums, dict(labels))


def done_shards(job: Job) -> dict[int, Counts]:
    """Return the shards that are done, by number, with their counts."""
    found = ((number, read_counts(job, number)) for number in range(1, job.shards + 1))
    return {number: counts for number, counts in found if counts is not None}


def read_counts(job: Job, number: int) -> Counts | None:
    """Return the counts of a shard; None if it is not done: without a marker of this job, or of another size."""
    try:
        marker = read_json(job.marker(number), advice=ADVICE)
        if marker["job"] != job.digest or job.path(number).stat().st_size != marker["bytes"]:
            return None
        labels = {str(name): count for name, count in marker["labels"].items()}
        counts = Counts(marker["images"], marker["unreadable"], marker["unknown"], labels)
        numbers = (counts.images, counts.unreadable, counts.unknown, *labels.values())
        return counts if all(type(number) is int and number >= 0 for number in numbers) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_shard(job: Job, number: int, predict: Predict, progress: Callable[[int], None] = lambda done: None) -> Counts:
    """Predict a shard unless it is done, and return its counts.

    Args:
        job: The job.
        number: The shard, from 1.
        predict: A function such as ``Classifier.stream_groups``.
        progress: Called with the number of images predicted so far.

    Raises:
        ValueError: If there is no such shard.
        RuntimeError: If a file cannot be written.
    """
    if (counts := read_counts(job, number)) is not None:
        return counts
    labels, numbers, digest, size = Counter[str](), Counter[str](), hashlib.sha256(), 0
    columns = Columns(job.spec.image_column, job.spec.key_column)

    def counted() -> Iterator[list[Prediction]]:
        for batch in predict(image_groups(job.entries(number), columns)):
            for one in batch:
                numbers.update(["unreadable" if one.error else "unknown" if one.unknown else "classified"])
                labels.update([one.label] if one.label and not one.unknown else [])
            yield batch
            progress(numbers.total())

    def hashed() -> Iterator[bytes]:
        nonlocal size
        for piece in _content(job.spec, counted()):
            digest.update(piece)
            size += len(piece)
            yield piece

    write_atomically(job.path(number), hashed(), alone=False)
    counts = Counts(numbers.total(), numbers["unreadable"], numbers["unknown"], dict(labels))
    write_shared_json(
        job.marker(number), {"job": job.digest, "bytes": size, "sha256": digest.hexdigest(), **asdict(counts)}
    )
    return counts


def run_job(job: Job, predict: Predict, progress: Callable[[int], None] = lambda done: None) -> None:
    """Predict the shards that are not done, one after another; see `write_shard`."""
    for number in range(1, job.shards + 1):
        write_shard(job, number, predict, progress)


def _content(spec: JobSpec, batches: Iterator[list[Prediction]]) -> Iterator[bytes]:
    """Yield the bytes of a shard, batch by batch."""
    if spec.form == "parquet":
        yield from as_parquet(batches)
        return
    if spec.form == "csv":
        yield csv_header(errors=True).encode()
    for batch in batches:
        text = as_csv(batch, errors=True, guard=spec.guard) if spec.form == "csv" else as_lines(batch)
        yield text.encode(errors="backslashreplace")  # file names may not be valid Unicode


def finish_job(job: Job, *, merge: bool = False) -> dict[str, Any]:
    """Check the shards, add up their counts and write ``summary.json``.

    Args:
        job: A job whose shards are all done.
        merge: Whether to write all shards into one file, too: ``predictions.csv``, ``.jsonl`` or ``.parquet``.

    Returns:
        The summary: numbers of images, shards and unreadable images, and the number of images of each predicted class;
        of unknown images, too, if the job looks for them.

    Raises:
        ValueError: If a shard is not done, or it or the summary is damaged.
    """
    if not (job.folder / SUMMARY).exists():
        write_shared_json(job.folder / SUMMARY, _summary(job))
    if merge and not merged_file(job).exists():
        write_atomically(merged_file(job), _merged(job), alone=False)
    for leftover in job.folder.glob(".*.part"):  # of killed processes; all files are there
        leftover.unlink(missing_ok=True)
    summary = read_json(job.folder / SUMMARY, advice=ADVICE)
    counts = [summary.get(key) for key in ("images", "shards", "unreadable")] if isinstance(summary, dict) else [None]
    if not all(type(count) is int for count in counts):
        raise ValueError(f"{job.folder / SUMMARY} is damaged: it has no counts. {ADVICE}")
    return dict(summary)


def merged_file(job: Job) -> Path:
    """Return the path of the file with all predictions, written by ``finish_job(merge=True)``."""
    return job.folder / f"predictions.{job.spec.form}"


def _merged(job: Job) -> Iterator[bytes]:
    """Yield the bytes of a file with the rows of all shards."""
    parts = [job.path(number) for number in range(1, job.shards + 1)]
    if job.spec.form == "parquet":
        yield from merged_parquet(parts)
        return
    for number, part in enumerate(parts):
        with part.open("rb") as file:
            if job.spec.form == "csv" and number:
                file.readline()
            yield from file


def _summary(job: Job) -> dict[str, Any]:
    total = Counts()
    for number in range(1, job.shards + 1):
        counts = read_counts(job, number)
        if counts is None:
            raise ValueError(f"{job.path(number)} is not done. Repeat the command to do it.")
        _check_content(job, number)
        total += counts
    labels = {name: (total.labels or {}).get(name, 0) for name in dict.fromkeys(job.spec.classes)}
    summary = {"images": total.images, "shards": job.shards, "unreadable": total.unreadable}
    return summary | ({} if job.spec.unknown is None else {"unknown": total.unknown}) | {"labels": labels}


def _check_content(job: Job, number: int) -> None:
    """Raise ValueError if a shard has another checksum than its marker says."""
    with job.path(number).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != read_json(job.marker(number), advice=ADVICE).get("sha256"):
        raise ValueError(f"{job.path(number)} is damaged. {ADVICE}")
