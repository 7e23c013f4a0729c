"""Large predictions: the folder of a job, with its specification and its list of images.

    images.txt                         the entries in order, one per line; see `image_paths` and `image_groups`
    images.index                       byte offsets of entries in images.txt, 8 bytes each, the lowest first
    job.json                           the specification; written last of these three
    shard-..., summary.json            see `shards`

Files are written under temporary names and renamed; nothing is locked. Several processes may start the same job at the
same time.
"""

import hashlib
import json
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from selfprompt.inference.image_paths import PathIndex, read_lines
from selfprompt.utils.files import to_json, write_atomically
from selfprompt.utils.json_files import read_json

FORMAT = 2
JOB, LIST, INDEX = "job.json", "images.txt", "images.index"
IMAGES_PER_SHARD = 1000
"""Approximate number of image files in a shard by default."""

Form = Literal["csv", "jsonl", "parquet"]


@dataclass(frozen=True)
class JobSpec:
    """Everything besides the images that determines the content of the shards.

    Attributes:
        classifier: Hash of the classifier's configuration, which has the hashes of its tensors and its backbone.
        classes: Class names, in order.
        batch: Images per batch; a shard of image files has whole batches.
        top: Number of classes per image.
        form: Format of the shards.
        guard: Whether an apostrophe is put before names in CSV that a spreadsheet might run as formulas.
        unknown, coverage: As for ``Classifier.predict``.
        image_column, key_column: See `Columns`.
        precision: As for ``Classifier``.
    """

    classifier: str
    classes: tuple[str, ...]
    batch: int
    top: int = 1
    form: Form = "csv"
    guard: bool = False
    unknown: float | None = None
    coverage: float | None = None
    image_column: str = "image"
    key_column: str | None = None
    precision: str = "32-true"


@dataclass(frozen=True)
class Job:
    """A prediction job in a folder, as `open_job` returns it.

    Attributes:
        folder: Its folder.
        spec: Its specification.
        shards: Number of shards.
        count: Number of entries in the list.
        archives: Whether the entries are archives, or ranges of them, instead of image files.
        list_sha256, list_bytes: Checksum and size of the list.
    """

    folder: Path
    spec: JobSpec
    shards: int
    count: int
    archives: bool
    list_sha256: str
    list_bytes: int

    @property
    def step(self) -> int:
        """Entries that stay together: a batch of image files, or one archive."""
        return 1 if self.archives else self.spec.batch

    @property
    def digest(self) -> str:
        """Hash of the specification, the list and the number of shards."""
        return hashlib.sha256(json.dumps(_record(self), sort_keys=True).encode()).hexdigest()

    def name(self, number: int) -> str:
        """Return the name of a shard's files, without extension; shards are numbered from 1."""
        return f"shard-{number:05d}-of-{self.shards:05d}"

    def path(self, number: int) -> Path:
        """Return the path of a shard's predictions, which may not exist yet."""
        return self.folder / f"{self.name(number)}.{self.spec.form}"

    def marker(self, number: int) -> Path:
        """Return the path of the file that says that a shard is done."""
        return self.folder / f"{self.name(number)}.json"

    def entries(self, number: int) -> Iterator[str]:
        """Yield the entries of a shard.

        Raises:
            ValueError: If the list or its index is damaged.
        """
        chosen = shard_range(self.count, self.step, number, self.shards)
        if not chosen:
            return
        content = (self.folder / INDEX).read_bytes()
        if len(content) != 8 * -(-self.count // self.step):
            raise ValueError(f"{self.folder / INDEX} is damaged. Use another folder with --out.")
        index = array("Q", content)
        if sys.byteorder == "big":
            index.byteswap()
        with (self.folder / LIST).open("rb") as file:
            file.seek(index[chosen.start // self.step])
            yield from islice(read_lines(file), len(chosen))


def shard_range(count: int, step: int, number: int, shards: int) -> range:
    """Return which entries of a list a shard has: neighbours, in whole steps, nearly as many in each shard.

    Args:
        count: Number of entries.
        step: Entries that stay together.
        number: The shard, 1 to ``shards``.
        shards: Number of shards.

    Raises:
        ValueError: If there is no such shard.
    """
    if not 1 <= number <= shards:
        raise ValueError(f"A shard must have a number from 1 to {shards}, got {number}.")
    steps = -(-count // step)
    first, end = (min(steps * k // shards * step, count) for k in (number - 1, number))
    return range(first, end)


def open_job(folder: Path, spec: JobSpec, entries: Iterable[str] | None = None, shards: int | None = None) -> Job:
    """Start a job, or open the one in the folder if it has the same specification and images.

    Args:
        folder: Folder of the job; it is created.
        spec: Specification of the job.
        entries: Entries of the list, as `image_paths` yields them; iterated once and not held in memory. None for those
            of the job in the folder, which are not read.
        shards: Number of shards; None for that of the job in the folder, or about `IMAGES_PER_SHARD` image files or one
            archive in each.

    Raises:
        ValueError: If there are no images, the folder holds another job, or none and no entries are given.
        RuntimeError: If a file cannot be written.
    """
    if not (folder / JOB).exists():
        if entries is None:
            raise ValueError(f"{folder} holds no job: name the images, or give a list of them with --list.")
        started = _start(folder, spec, entries, shards)
        return _check_same(read_job(folder), started)  # another process may have started another one meanwhile
    job = read_job(folder)
    if not (folder / LIST).is_file() or (folder / LIST).stat().st_size != job.list_bytes:
        raise ValueError(f"{folder / LIST} is damaged. Use another folder with --out.")
    if entries is None:
        asked = replace(job, spec=spec, shards=shards or job.shards)
    else:
        index = PathIndex()
        for _ in index.lines(entries):
            pass
        asked = _listed(folder, spec, index, shards or job.shards)
    return _check_same(job, asked)


def _start(folder: Path, spec: JobSpec, entries: Iterable[str], shards: int | None) -> Job:
    entries = iter(entries)
    first = next(entries, None)
    if first is None:
        raise ValueError("There are no images to predict: the list is empty.")
    archives = PathIndex()
    next(archives.lines([first]))
    index = PathIndex(1 if archives.archives else spec.batch)
    write_atomically(folder / LIST, index.lines(chain([first], entries)), alone=False)
    starts = array("Q", index.starts)
    if sys.byteorder == "big":
        starts.byteswap()
    write_atomically(folder / INDEX, starts.tobytes(), alone=False)
    job = _listed(folder, spec, index, shards)
    write_shared_json(folder / JOB, _record(job))
    return job


def _listed(folder: Path, spec: JobSpec, index: PathIndex, shards: int | None) -> Job:
    archives = bool(index.archives)
    size = -(-IMAGES_PER_SHARD // spec.batch) * spec.batch
    shards = shards or (index.count if archives else -(-index.count // size))
    return Job(folder, spec, shards, index.count, archives, index.sha256, index.size)


def _record(job: Job) -> dict[str, Any]:
    """Return a job as JSON values."""
    record = {"format": FORMAT, **asdict(job.spec), "classes": list(job.spec.classes)}
    own = ("shards", "count", "archives", "list_sha256", "list_bytes")
    return record | {name: getattr(job, name) for name in own}


def read_job(folder: Path) -> Job:
    """Read the job in a folder.

    Raises:
        ValueError: If it is damaged, or of another version.
    """
    path = folder / JOB
    try:
        record = dict(read_json(path, advice="Use another folder."))
        version = record.pop("format")
        own = [record.pop(name) for name in ("shards", "count", "archives", "list_sha256", "list_bytes")]
        spec = JobSpec(**record | {"classes": tuple(record["classes"])})
        whole = all(type(number) is int and number > 0 for number in (own[0], own[1], spec.batch))
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, KeyError) and record.get("part_size"):
            raise ValueError(f"{path} is of an earlier version: use another folder with --out.") from None
        raise ValueError(f"{path} is damaged ({error}); use another folder with --out.") from error
    if version != FORMAT or not whole:
        raise ValueError(f"{path} is damaged, or of another version: use another folder with --out.")
    return Job(folder, spec, *own)


def _check_same(job: Job, asked: Job) -> Job:
    """Return the job in the folder; raises ValueError unless it is the one asked for."""
    stored, expected = _record(job), _record(asked)
    different = [key for key in expected if stored[key] != expected[key]]
    if different:
        reasons = [
            f"its {key} {'are' if key == 'classes' else 'is'} not the same"
            if key in ("classes", "classifier", "list_sha256")
            else f"its {key} is {stored[key]!r}, not {expected[key]!r}"
            for key in different
            if key != "list_bytes"
        ]
        raise ValueError(
            f"{job.folder} holds another job: {'; '.join(reasons)}. Repeat the first command to resume it, or use "
            "another folder with --out."
        )
    return job


def write_shared_json(path: Path, value: Any) -> None:
    """Write JSON that another process may be writing, too."""
    write_atomically(path, (to_json(value, indent=2) + "\n").encode(errors="backslashreplace"), alone=False)
