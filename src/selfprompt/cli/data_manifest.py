"""``selfprompt data manifest``: labels in file names, or in a table beside the images, as a manifest to train on."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import make_console


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("root", type=str, help="the folder that holds the images, or folders of them")
    parser.add_argument("--out", type=str | None, help="the manifest (.csv); by default manifest.csv in the folder")


def manifest(options: Namespace) -> int:
    """Write the manifest; paths in it are relative to its folder."""
    from selfprompt.data.readers.label_inference import format_manifest, infer_labels
    from selfprompt.utils.files import write_atomically

    root = Path(options.root)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: name the one that holds the images.")
    out = Path(options.out) if options.out else root / "manifest.csv"
    if out.suffix.lower() != ".csv":
        raise ValueError(f"--out must end in .csv, got {out}.")
    if out.exists():
        raise ValueError(f"{out} is there already: delete it, or name another file with --out.")
    labels = infer_labels(root)
    if labels is None:
        raise ValueError(
            f"{root}: neither the names of the files nor a table tell classes. Names are understood like cat.0.jpg and "
            "dog_12.png; a table (.csv, .tsv) needs a column of file names and one of classes."
        )
    write_atomically(out, format_manifest(labels, root, out.parent).encode())
    console = make_console()
    console.print(f"{labels.origin} contain the classes: {labels.counts}.", markup=False, soft_wrap=True)
    console.print(f"Manifest: {out} ({len(labels.rows)} images)", markup=False, soft_wrap=True)
    return 0
