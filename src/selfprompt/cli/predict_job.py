"""``selfprompt predict --out``: large jobs in shards, done by this process or by the workers of an engine."""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from selfprompt.cli.console import Output, make_console
from selfprompt.cli.engine import count_gpus, is_in_this_process, threads_per_job
from selfprompt.cli.predict_steps import collect_remarks, image_columns, load_classifier, stream
from selfprompt.cli.usage import UsageError

if TYPE_CHECKING:
    from selfprompt.data.loading.image_remarks import RemarkCounter
    from selfprompt.inference.classifier import Classifier
    from selfprompt.inference.jobs import Job, JobSpec
    from selfprompt.inference.predictions import Prediction
    from selfprompt.inference.shards import Counts

POLL_SECONDS, MESSAGE_SECONDS = 1.0, 30.0
"""Seconds between two updates of the progress bar, and between two lines of progress without a terminal."""

Done = tuple["Counts", "RemarkCounter"]
"""What a worker returns for a shard."""


def predict_shards(options: Namespace) -> int:
    """Start or resume the job in ``--out``; do one of its shards, or all and the summary."""
    from selfprompt.inference.image_paths import ignored_summary
    from selfprompt.inference.jobs import open_job

    if options.format not in (None, "csv", "jsonl", "parquet"):
        raise UsageError(f"--out writes csv, jsonl or parquet, got --format {options.format}.")
    if options.format == "parquet":
        from selfprompt.inference.parquet_rows import check_pyarrow

        check_pyarrow()
    number = parse_shard(options)
    output = Output(make_console(stderr=True), quiet=options.quiet)
    here = number is not None or is_in_this_process(options)
    classifier = load_classifier(options if here else changed(options, device="cpu", precision="32-true"), output)
    with output.stage("listing images"):
        entries = entries_of_job(options, ignored := Counter[str]())
        job = open_job(Path(options.out), job_spec(options, classifier), entries, options.shards)
    if ignored:
        output.message(ignored_summary(ignored))
    if number is not None:
        return predict_one(options, job, classifier, number, output)
    predict_missing(options, job, classifier if here else None, output)
    return finish(options, job, output)


def parse_shard(options: Namespace) -> int | None:
    """Return the number of the only shard to do, and set ``options.shards``; None for all.

    Raises:
        UsageError: If ``--shard`` is wrong or does not go with other options.
    """
    if options.shard is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,8})/([1-9]\d{0,8})", options.shard)
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(
            "--shard must be the number of a shard, from 1, and the number of shards, such as 3/64, "
            f"got {options.shard!r}."
        )
    if options.merge:
        raise UsageError("--merge needs all shards: use it without --shard, when they are done.")
    if options.shards not in (None, int(match[2])):
        raise UsageError(f"--shard {options.shard} and --shards {options.shards} give two numbers of shards.")
    options.shards = int(match[2])
    return int(match[1])


def entries_of_job(options: Namespace, ignored: Counter[str]) -> Iterator[str] | None:
    """Return the entries of the images; None for those of the job in the folder."""
    from selfprompt.inference.image_paths import image_paths
    from selfprompt.inference.jobs import JOB, LIST

    own = options.list is None or Path(options.list) == Path(options.out) / LIST
    if own and not options.images and (options.list is None or (Path(options.out) / JOB).is_file()):
        return None
    return image_paths(options.images, options.list, ignored, image_columns(options))


def job_spec(options: Namespace, classifier: "Classifier") -> "JobSpec":
    """Return the specification of the job."""
    from selfprompt.inference.artifact import CONFIG
    from selfprompt.inference.hub import artifact_folder
    from selfprompt.inference.jobs import JobSpec

    digest = hashlib.sha256((artifact_folder(options.classifier) / CONFIG).read_bytes())
    if classifier.method.has_descriptions:  # those of a file may differ from those in the configuration
        digest.update(repr(classifier.method.descriptions).encode(errors="backslashreplace"))
    return JobSpec(
        digest.hexdigest(),
        classifier.classes,
        classifier.batch_size,
        options.top,
        options.format or "csv",
        options.csv_guard,
        options.unknown,
        options.coverage,
        options.image_column,
        options.key_column,
        options.precision,
    )


def predict_one(options: Namespace, job: "Job", classifier: "Classifier", number: int, output: Output) -> int:
    """Do one shard in this process; the exit status is 1 if it has images and none can be read."""
    with output.stage("predicting") as bar:
        counts, remarks = do_shard(options, job, classifier, lambda done: bar(done, done), number)
    for sentence in remarks.sentences():
        output.message(sentence)
    read = counts.images - counts.unreadable
    output.message(f"{read:,} of {counts.images:,} images classified: {job.path(number)}")
    return 1 if counts.images and not read else 0


def predict_missing(options: Namespace, job: "Job", classifier: "Classifier | None", output: Output) -> None:
    """Do the shards that are not done, in this process if there is a classifier, else in the workers of the engine.

    Raises:
        RuntimeError: If shards are left undone.
    """
    from selfprompt.data.loading.image_remarks import RemarkCounter
    from selfprompt.engines.run import run_all
    from selfprompt.engines.work import EngineError
    from selfprompt.inference.shards import done_shards

    with output.stage("looking for shards that are done"):
        done = done_shards(job)
    missing = [number for number in range(1, job.shards + 1) if number not in done]
    if not missing:
        return
    all_remarks = RemarkCounter()
    with output.stage("predicting") as bar:
        progress = JobProgress(job, list(done), output, bar)
        if classifier is not None:
            start: Callable[[], Callable[[int], Done]] = lambda: partial(  # noqa: E731
                do_shard, options, job, classifier, progress.within
            )
        else:
            start = partial(start_worker, worker_options(options), threads_per_job(options))
        try:
            for number, (_, remarks) in run_all(
                options.engine,
                start,
                missing,
                options.jobs,
                folder=job.folder,
                gpus=count_gpus(options, options.device),
                options=options.engine_options,
                say=output.message,
            ):
                all_remarks.update(remarks)
                progress.shard(number)
        except EngineError as error:
            raise RuntimeError(explain(error, options, job)) from error
    for sentence in all_remarks.sentences():
        output.message(sentence)


def explain(error: Any, options: Namespace, job: "Job") -> str:
    """Return what is left undone, and the command that does it alone."""
    if not error.items:
        return str(error)
    names = ", ".join(f"{number}/{job.shards}" for number in error.items[:10])
    more = f" and {len(error.items) - 10} more" if len(error.items) > 10 else ""
    return (
        f"All shards are done but {names}{more}: each ended its worker several times, as too little memory does. To do "
        f"one alone: {options.command_line} --shard {error.items[0]}/{job.shards}"
    )


def worker_options(options: Namespace) -> Namespace:
    """Return the options for workers, which need no images: the list is in the folder."""
    return changed(options, images=[], list=None, quiet=True, given=[], command_line="")


def changed(options: Namespace, **values: Any) -> Namespace:
    """Return a copy of the options with other values."""
    copy: Namespace = options.clone()
    for name, value in values.items():
        setattr(copy, name, value)
    return copy


def start_worker(options: Namespace, threads: int) -> Callable[[int], Done]:
    """Load the classifier and open the job, in a worker; returns the function that does a shard.

    Raises:
        ValueError: If the job in the folder has another classifier or other options.
    """
    import torch

    from selfprompt.inference.jobs import open_job

    if threads:
        torch.set_num_threads(threads)
    classifier = load_classifier(options, Output(make_console(stderr=True), quiet=True))
    job = open_job(Path(options.out), job_spec(options, classifier))
    return partial(do_shard, options, job, classifier, lambda done: None)


def do_shard(
    options: Namespace, job: "Job", classifier: "Classifier", progress: Callable[[int], None], number: int
) -> Done:
    """Do a shard unless it is done; ``progress`` is called with the number of images so far."""
    from selfprompt.data.loading.image_remarks import RemarkCounter
    from selfprompt.inference.shards import write_shard

    remarks, predict = RemarkCounter(), stream(options, classifier)

    def watched(groups: Any) -> Iterator[list["Prediction"]]:
        batches = collect_remarks(predict(groups), remarks)
        return batches if options.on_bad_image == "skip" else stop_at_unreadable(batches)

    return write_shard(job, number, watched, progress), remarks


def stop_at_unreadable(batches: Iterator[list["Prediction"]]) -> Iterator[list["Prediction"]]:
    """Yield the batches unchanged; raises ValueError at an image that cannot be read."""
    for batch in batches:
        for one in batch:
            if one.error:
                raise ValueError(f"cannot read {one.image}: {one.error}. --on-bad-image skip goes on without it.")
        yield batch


def finish(options: Namespace, job: "Job", output: Output) -> int:
    """Write the summary and say what is in it; the exit status is 1 if no image can be read."""
    from selfprompt.inference.shards import finish_job, merged_file

    with output.stage("checking the shards"):
        summary = finish_job(job, merge=options.merge)
    read = summary["images"] - summary["unreadable"]
    output.message(f"{read:,} of {summary['images']:,} images classified; shards and summary.json are in {job.folder}")
    if summary["unreadable"]:
        output.message(f"{summary['unreadable']:,} cannot be read; the shards give the reason (error)")
    if summary.get("unknown"):
        output.message(f"{summary['unknown']:,} are unknown: unlike the trained classes")
    if options.merge:
        output.message(f"merged into {merged_file(job)}")
    return 0 if read else 1


class JobProgress:
    """Shows the progress of a job: a bar in a terminal, otherwise a line now and then.

    It counts images, or the shards of a job whose images are in archives.
    """

    def __init__(self, job: "Job", done: list[int], output: Output, bar: Callable[[int, int], None]) -> None:
        self._job, self._output, self._bar = job, output, bar
        self._total, self._unit = (job.shards, "shards") if job.archives else (job.count, "images")
        self._done = self._before = sum(map(self._size, done))
        self._start = self._shown = self._told = time.monotonic()
        bar(self._done, self._total)

    def _size(self, number: int) -> int:
        from selfprompt.inference.jobs import shard_range

        return 1 if self._job.archives else len(shard_range(self._job.count, self._job.step, number, self._job.shards))

    def shard(self, number: int) -> None:
        """Count a shard that is done."""
        self._done += self._size(number)
        self.within(0)

    def within(self, images: int) -> None:
        """Show the progress; ``images`` counts those of the shard that this process works on."""
        now = time.monotonic()
        if now - self._shown < POLL_SECONDS:
            return
        self._shown = now
        done = self._done + (0 if self._job.archives else images)
        self._bar(done, self._total)
        if not self._output.console.is_terminal and now - self._told >= MESSAGE_SECONDS:
            self._told = now
            rate = (done - self._before) / (now - self._start)
            left = f"{timedelta(seconds=int((self._total - done) / rate))} left" if rate else "time left unknown"
            self._output.message(f"{done:,}/{self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {left}")
