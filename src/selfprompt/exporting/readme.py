"""The README.md and requirements.txt of an exported folder."""

from importlib.metadata import version

from selfprompt.runtime.folder import RECORD, ExportRecord
from selfprompt.utils.wording import listing, plural, printable

REQUIREMENTS = f"numpy>=2.0\npillow=={version('pillow')}\nonnxruntime>=1.24.1\n"
"""What the folder needs besides selfprompt itself. Pillow 13 resizes tall images otherwise than Pillow 12 does."""

USE = """## Use

With Python 3.11 or newer, without torch:

```sh
pip install -r requirements.txt && pip install --no-deps selfprompt
python -m selfprompt.runtime . photo.jpg --top 3
```

```python
import selfprompt.runtime

for prediction in selfprompt.runtime.load(".").predict("photo.jpg", top=3):
    print(prediction.label, prediction.score)
```

Other programs give the model the bytes of RGB images as it sees them, `images` (N, S, S, 3), and, where it has that
input, the class vectors of the file, `class_vectors` (C, E). It returns `logits` (N, C), and normalises itself.
"""


def readme(record: ExportRecord, use: str) -> str:
    """Return the text of README.md.

    Args:
        record: What was exported.
        use: How to use it, as Markdown.
    """
    shown = listing([printable(name) for name in record.classes])
    lines = [
        f"# {record.method} on {record.backbone}, exported",
        "",
        f"An image classifier for {plural(len(record.classes), 'class')}: {shown}.",
        *(["", f"**{record.note}**"] if record.note else []),
        "",
        use.rstrip(),
        "",
        "## Accuracy",
        "",
        *precision_table(record),
        "",
        f"`{RECORD}` holds classes, preprocessing, calibration and the hashes of the files.",
    ]
    return "\n".join(lines) + "\n"


PRECISION_COLUMNS = ("precision", "file", "size", "accuracy", "95 % interval", "largest difference of a logit")


def precision_rows(record: ExportRecord) -> list[list[str]]:
    """Return a row of text for each precision, in the order of ``PRECISION_COLUMNS``."""
    rows = []
    for name, model in record.precisions.items():
        measured = model.measured
        accuracy = "not measured" if measured is None else f"{measured.accuracy:.1f} %"
        interval = "" if measured is None else "{:.1f} to {:.1f} %".format(*measured.interval)
        size = f"{model.file.bytes / 1e6:.1f} MB"
        rows.append([name, model.file.path, size, accuracy, interval, f"{model.largest_difference:.1e}"])
    return rows


def precision_table(record: ExportRecord) -> list[str]:
    """Return the table of precisions as lines of Markdown, and what it was measured on."""
    lines = [f"| {' | '.join(row)} |" for row in (PRECISION_COLUMNS, *precision_rows(record))]
    lines.insert(1, "|" + "---|" * len(PRECISION_COLUMNS))
    return [*lines, "", measured_sentence(record)]


def measured_sentence(record: ExportRecord) -> str:
    """Return what the accuracies and differences were measured on."""
    if not record.measured_on:
        return "The accuracy was not measured; differences from torch are on images of noise."
    return f"Measured on {printable(record.measured_on)}; differences are from torch, on the same images."
