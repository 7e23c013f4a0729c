"""``selfprompt data get``: downloads a published data set."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output
from selfprompt.cli.usage import usage


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", type=str, help="data set: oxford_pets, fgvc/cub, or vtab for all of VTAB-1k")
    parser.add_argument("--root", type=str, default="data", help="folder of the data sets")


def get(options: Namespace) -> int:
    """Download missing files; repeating the command resumes an interrupted download."""
    from selfprompt.data.suites.fetch import (
        CHECKSUM_FILE,
        WORK_FOLDER,
        dataset_folder,
        fetch_download,
        missing_downloads,
        resolve_dataset,
    )

    output, root = Output(), Path(options.root)

    @contextmanager
    def stage(name: str) -> Iterator[Callable[[int, int], None]]:
        with output.stage(f"{name} (MB)") as progress:
            yield lambda done, total: progress(done >> 20, total >> 20)

    with usage():
        key, source = resolve_dataset(options.name)
    folder, work = dataset_folder(key, root), root / WORK_FOLDER / key.replace("/", "-")
    output.message(f"{key} is from {source.attribution}")
    downloads = missing_downloads(source, folder)
    if source.downloads and not downloads:
        output.message(f"Everything that can be downloaded is already in {folder}.")
    for item in downloads:
        output.message(f"Downloading {item.url}")
        if not item.checksum:
            output.message(
                f"No checksum is published; the checksum of the download is recorded in {folder / CHECKSUM_FILE}."
            )
        for path in fetch_download(item, folder, work, stage):
            output.message(f"New: {path}")
    shutil.rmtree(work, ignore_errors=True)
    if (root / WORK_FOLDER).is_dir() and not any((root / WORK_FOLDER).iterdir()):
        (root / WORK_FOLDER).rmdir()
    if source.manual_steps:
        output.message(f"Manual steps, in {folder}: {source.manual_steps}")
    if key != "vtab" and not folder.is_dir():
        return 1
    return _report(key, root, output)


def _report(key: str, root: Path, output: Output) -> int:
    """Print the state of the data set; return 1 if it cannot be used yet."""
    from selfprompt.data.suites.check import SPECS_BY_SUITE, check_published
    from selfprompt.data.suites.specs import SPECS

    findings = [check_published(spec, root) for spec in (SPECS_BY_SUITE["vtab"] if key == "vtab" else [SPECS[key]])]
    for finding in findings:
        output.message(f"{finding.spec.key}: {finding.state}. {' '.join(finding.remarks)}".rstrip())
    return int(any(finding.state in ("wrong", "missing") for finding in findings))
