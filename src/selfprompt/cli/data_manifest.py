"""``selfprompt data manifest``: writes labels from file names, or from a table, as a manifest to train on."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import make_console


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("root", type=str, help="folder of images, or of folders of images")
    parser.add_argument("--out", type=str | None, help="output file (.csv); default: manifest.csv in the folder")


def manifest(options: Namespace) -> int:
    """Write the manifest, with paths relative to its folder."""
    from selfprompt.data.readers.label_inference import format_manifest, infer_labels
    from selfprompt.utils.files import write_atomically

    root = Path(options.root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder. Give the folder of the images.")
    out = Path(options.out) if options.out else root / "manifest.csv"
    if out.suffix.lower() != ".csv":
        raise ValueError(f"--out must end in .csv, got {out}.")
    if out.exists():
        raise ValueError(f"{out} exists already. Delete it, or give another file with --out.")
    labels = infer_labels(root)
    if labels is None:
        raise ValueError(
            f"{root}: neither the file names nor a table give labels. Names must look like cat.0.jpg or dog_12.png; "
            "a table (.csv, .tsv) needs a column of file names and one of classes."
        )
    write_atomically(out, format_manifest(labels, root, out.parent).encode())
    console = make_console()
    console.print_text(f"{labels.origin} contain the classes: {labels.counts}.")
    console.print_text(f"Manifest: {out} ({len(labels.rows)} images)")
    return 0
