"""``selfprompt predict --out``: large jobs, written in parts by any number of processes."""

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from selfprompt.cli.console import Output, make_console
from selfprompt.cli.predict_steps import PredictionCounter, collect_remarks, load_classifier, reader_threads, stream
from selfprompt.cli.usage import UsageError
from selfprompt.utils.cores import max_processes

if TYPE_CHECKING:
    from selfprompt.inference.classifier import Classifier
    from selfprompt.inference.jobs import Job, JobSpec
    from selfprompt.inference.predictions import Prediction

DEFAULT_PART_SIZE = 1000
"""Approximate number of images in a part."""
POLL_SECONDS, MESSAGE_SECONDS = 1.0, 30.0
"""Seconds between two checks of the parts, and between two lines of progress without a terminal."""


def predict_parts(options: Namespace) -> int:
    """Start or resume the job in ``--out`` and finish all of its parts."""
    from selfprompt.data.loading.image_remarks import RemarkCounter
    from selfprompt.inference.image_paths import ignored_summary
    from selfprompt.inference.jobs import finish_job, merged_file, open_job, run_job

    if options.format not in (None, "csv", "jsonl"):
        raise UsageError(f"--out writes csv or jsonl, got --format {options.format}.")
    output, remarks = Output(make_console(stderr=True), quiet=options.quiet), RemarkCounter()
    classifier = load_classifier(options, output)
    check_devices(options, classifier)
    with output.stage("listing images"):
        paths = image_paths_of_job(options, ignored := Counter[str]())
        job = open_job(Path(options.out), job_spec(options, classifier), paths)
    if ignored:
        output.message(ignored_summary(ignored))
    if not job.is_done:
        with output.stage("predicting") as bar, helper_processes(options, job, classifier, output):
            predict = stream(options, classifier)
            predict = predict if options.on_bad_image == "skip" else stop_at_unreadable(predict)
            run_job(job, lambda paths: collect_remarks(predict(paths), remarks), JobProgress(job, output, bar))
        for sentence in remarks.sentences():  # on images that this process has read
            output.message(sentence)
    summary = finish_job(job, merge=options.merge)
    read = summary["images"] - summary["unreadable"]
    output.message(f"{read:,} of {summary['images']:,} images classified; parts and summary.json are in {job.folder}")
    if summary["unreadable"]:
        output.message(f"{summary['unreadable']:,} cannot be read; the parts give the reason (error)")
    if summary.get("unknown"):
        output.message(f"{summary['unknown']:,} are unknown: unlike the trained classes")
    if options.merge:
        output.message(f"merged into {merged_file(job)}")
    return 0 if read else 1


def image_paths_of_job(options: Namespace, ignored: Counter[str]) -> Iterator[str]:
    """Yield the paths of the images; the list in the folder of a job is read as the job wrote it."""
    from selfprompt.inference.image_paths import image_paths, read_lines
    from selfprompt.inference.jobs import LIST

    job_list = Path(options.out) / LIST
    if options.list is None or options.images or Path(options.list) != job_list or not job_list.is_file():
        yield from image_paths(options.images, options.list, ignored)
        return
    with job_list.open("rb") as file:
        yield from read_lines(file)


def job_spec(options: Namespace, classifier: "Classifier") -> "JobSpec":
    """Return the specification of the job.

    Raises:
        UsageError: If a part would not hold whole batches.
    """
    from selfprompt.inference.artifact import CONFIG
    from selfprompt.inference.hub import artifact_folder
    from selfprompt.inference.jobs import JobSpec

    batch = classifier.batch_size
    size = options.part_size or -(-DEFAULT_PART_SIZE // batch) * batch
    if size % batch:
        raise UsageError(f"--part-size must be a multiple of the classifier's batch size {batch}, got {size}.")
    digest = hashlib.sha256((artifact_folder(options.classifier) / CONFIG).read_bytes())
    if classifier.method.has_descriptions:  # those of a file may differ from those in the configuration
        digest.update(repr(classifier.method.descriptions).encode(errors="backslashreplace"))
    return JobSpec(
        digest.hexdigest(),
        classifier.classes,
        options.top,
        options.format or "csv",
        size,
        options.csv_guard,
        options.unknown,
        options.coverage,
    )


def stop_at_unreadable(
    predict: "Callable[..., Iterator[list[Prediction]]]",
) -> "Callable[..., Iterator[list[Prediction]]]":
    """Return a stream that raises ValueError at an image that cannot be read."""
    return lambda paths: PredictionCounter(Output(make_console(stderr=True)), True, lambda done: None).follow(
        predict(paths)
    )


class JobProgress:
    """Shows the progress of a job over all of its processes: a bar in a terminal, otherwise a line now and then."""

    def __init__(self, job: "Job", output: Output, bar: Callable[[int, int], None]) -> None:
        self._job, self._output, self._bar = job, output, bar
        self._before = job.finished()
        self._start = self._polled = self._reported = time.monotonic()
        bar(self._before, job.count)

    def __call__(self, done_here: int) -> None:
        """Show the progress; ``done_here`` counts images of the part that this process works on."""
        now = time.monotonic()
        if now - self._polled < POLL_SECONDS:
            return
        self._polled = now
        done = min(self._job.finished() + done_here, self._job.count)
        self._bar(done, self._job.count)
        if not self._output.console.is_terminal and now - self._reported >= MESSAGE_SECONDS:
            self._reported = now
            rate = (done - self._before) / (now - self._start)
            left = f"{timedelta(seconds=int((self._job.count - done) / rate))} left" if rate else "time left unknown"
            self._output.message(f"{done:,}/{self._job.count:,} images, {rate:,.0f} images/s, {left}")


def check_devices(options: Namespace, classifier: "Classifier") -> None:
    """Raise UsageError for more processes than the machine has GPUs, or CPU cores without a GPU."""
    import torch

    if classifier.device.type != "cuda":
        if options.devices > max_processes():
            raise UsageError(
                f"--devices must be at most {max_processes()} on the CPU of this machine, got {options.devices}."
            )
    elif options.devices > 1 and not (
        options.device in ("auto", "cuda") and options.devices <= torch.cuda.device_count()
    ):
        raise UsageError(
            f"--devices {options.devices} needs as many GPUs and --device cuda, got --device {options.device} "
            f"and {torch.cuda.device_count()} GPUs."
        )


@contextmanager
def helper_processes(options: Namespace, job: "Job", classifier: "Classifier", output: Output) -> Iterator[None]:
    """Start the other processes of ``--devices``: the same command, each on its GPU or its share of the CPU.

    They end when all parts are finished, or when this process fails or is interrupted.
    """
    import torch

    if options.devices == 1:
        yield
        return
    on_gpus = classifier.device.type == "cuda"
    threads = torch.get_num_threads()
    share = threads if on_gpus else max(1, threads // options.devices)
    torch.set_num_threads(share)
    started = [
        start_helper(options, job, number, f"cuda:{number}" if on_gpus else classifier.device.type, share)
        for number in range(1, options.devices)
    ]
    try:
        yield
        for number, process in enumerate(started, start=1):
            if process.poll():
                output.message(
                    f"process {number} failed with status {process.returncode}; other processes took over its parts"
                )
    finally:
        torch.set_num_threads(threads)
        for process in started:
            process.terminate()  # does nothing to a process that has ended
            process.wait()


def start_helper(options: Namespace, job: "Job", number: int, device: str, threads: int) -> "subprocess.Popen[bytes]":
    """Start another process that works on the job."""
    from selfprompt.inference.jobs import LIST

    arguments = {
        "out": job.folder,
        "list": job.folder / LIST,
        "top": job.spec.top,
        "unknown": job.spec.unknown,
        "coverage": job.spec.coverage,
        "format": job.spec.form,
        "part_size": job.spec.part_size,
        "classes": options.classes,
        "class_names": options.class_names,
        "backbone": options.backbone,
        "on_bad_image": options.on_bad_image,
        "workers": reader_threads(options),
        "device": device,
    }
    words = [f"--{name}={value}" for name, value in arguments.items() if value is not None]
    words += ["--csv_guard"] if options.csv_guard else []
    environment = os.environ | {"LOCAL_RANK": str(number), "OMP_NUM_THREADS": str(threads)}
    words += ["--trust"] if options.trust else []
    command = [sys.executable, "-m", "selfprompt", "predict", *words, "--quiet", "--", options.classifier]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
