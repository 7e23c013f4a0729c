"""Arranges an exported folder as a model repository of Triton Inference Server."""

import re
from dataclasses import replace
from pathlib import Path

from selfprompt.runtime.folder import ExportRecord
from selfprompt.runtime.session import IMAGES, LOGITS
from selfprompt.utils.files import write_atomically
from selfprompt.utils.wording import printable

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
MAX_BATCH = 64
"""Images that Triton may put into one batch."""
MAX_WAIT = 2_000
"""Microseconds that an image waits for others."""
LABELS = "labels.txt"

USE = """## Use

Start [Triton Inference Server](https://github.com/triton-inference-server/server) on this folder:

```sh
docker run --rm -p 8000:8000 -v "$PWD:/models:ro" nvcr.io/nvidia/tritonserver:RELEASE-py3 \\
  tritonserver --model-repository=/models
```

A client sends the bytes of the image as the model sees it, which `selfprompt.runtime` resizes and crops
(`pip install tritonclient[http] -r requirements.txt && pip install --no-deps selfprompt`):

```python
import selfprompt.runtime
import tritonclient.http as triton

pixels = selfprompt.runtime.load(".").pixels("photo.jpg")[None]
image = triton.InferInput("images", pixels.shape, "UINT8")
image.set_data_from_numpy(pixels)
logits = triton.InferRequestedOutput("logits", class_count=3)
answer = triton.InferenceServerClient("localhost:8000").infer("NAME", [image], outputs=[logits])
print(answer.as_numpy("logits"))  # "logit:index:label" of the best classes
```
"""


def check_model_name(name: str) -> None:
    """Raise ValueError for a name that Triton's URLs cannot hold."""
    if not MODEL_NAME.fullmatch(name):
        raise ValueError(f"name must be letters, digits, - _ and ., up to 100, got {name!r}.")


def arrange_for_triton(folder: Path, record: ExportRecord, name: str) -> tuple[ExportRecord, str]:
    """Move the one model of a folder to where Triton looks for it, and write its configuration.

    Args:
        folder: The folder.
        record: Its record, with one precision and the class vectors in the model.
        name: Name of the model.

    Returns:
        The new record, and how to use the folder, as Markdown.
    """
    ((precision, model),) = record.precisions.items()
    path = f"{name}/1/model.onnx"
    (folder / path).parent.mkdir(parents=True)
    (folder / model.file.path).rename(folder / path)
    write_atomically(folder / name / "config.pbtxt", configuration(record, name).encode())
    labels = "".join(f"{printable(label)}\n" for label in record.classes)
    write_atomically(folder / name / LABELS, labels.encode(errors="backslashreplace"))
    moved = replace(model, file=replace(model.file, path=path))
    return replace(record, target="triton", precisions={precision: moved}), USE.replace("NAME", name)


def configuration(record: ExportRecord, name: str) -> str:
    """Return the text of config.pbtxt."""
    size = record.preprocess.size
    return f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [
  {{ name: "{IMAGES}" data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] }}
]
output [
  {{ name: "{LOGITS}" data_type: TYPE_FP32 dims: [ {len(record.classes)} ] label_filename: "{LABELS}" }}
]
dynamic_batching {{ max_queue_delay_microseconds: {MAX_WAIT} }}
"""
