"""A server in a thread, around a classifier of a few lines, and a client."""

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from selfprompt.inference.answers import Model
from selfprompt.inference.calibration import Calibration
from selfprompt.serving.app import About, make_app
from selfprompt.serving.limits import Limits
from selfprompt.serving.predictor import Predictor
from selfprompt.serving.server import make_server, open_socket, run_server

CLASSES = tuple(f"class {number}" for number in range(256))
SURPRISES = tuple(np.linspace(0.0, 1.0, 99))
CALIBRATION = Calibration(1.0, tuple(range(100, 199)), tuple(np.linspace(0.1, 0.9, 99)), SURPRISES)


def number_picture(number: int) -> bytes:
    """A PNG whose class is its number, 0..255."""
    written = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(written, "PNG")
    return written.getvalue()


@dataclass
class Running:
    """A server: its port, its batches, what it said, and a switch that lets the model go on."""

    port: int = 0
    batches: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None

    def logits(self, pixels: Any) -> np.ndarray:
        """The model."""
        self.batches.append(len(pixels))
        assert self.go.wait(60)
        if self.failure:
            raise self.failure
        return np.eye(len(CLASSES), dtype=np.float32)[np.asarray(pixels)] * 20

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPResponse]:
        """Send a request; return the status, the JSON of the answer (or its bytes), and the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content) if "json" in answer.headers["content-type"] else content, answer

    def upload(self, *files: tuple[str, bytes], name: str = "images", **options: object) -> tuple[int, Any]:
        """Send files as a form."""
        body, kind = form(files, name, options)
        return self.ask("POST", "/predict", body, {"Content-Type": kind})[:2]


def form(files: Any, name: str = "images", options: Mapping[str, object] | None = None) -> tuple[bytes, str]:
    """A multipart form and its content type."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in (options or {}).items()
    ]
    for file, content in files:
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join([*parts, b"--x--\r\n"]), "multipart/form-data; boundary=x"


@contextmanager
def running(
    limits: Limits | None = None,
    *,
    calibrated: bool = False,
    max_batch: int = 8,
    token: str | None = None,
    **about: Any,
) -> Iterator[Running]:
    """Run a server; its model reads the class of an image from its red value."""
    server = Running()
    server.go.set()
    limits = limits or Limits()
    calibration = CALIBRATION if calibrated else None
    model = Model(CLASSES, lambda image: image.getpixel((0, 0))[0], server.logits, 100, calibration)
    predictor = Predictor(model, max_batch=max_batch, max_wait=0.001, max_pixels=limits.max_pixels)
    app = make_app(
        predictor, About("numbers", **about), limits, hosts={"dogs.org"}, token=token, say=server.said.append
    )
    listening = open_socket("127.0.0.1", 0)
    server.port = listening.getsockname()[1]
    uvicorn = make_server(app, limits)
    thread = threading.Thread(target=run_server, args=(uvicorn, listening))
    thread.start()
    try:
        yield server
    finally:
        server.go.set()
        uvicorn.should_exit = True
        thread.join(60)
        predictor.close()


def wait_until(condition: Any) -> None:
    """Wait for something that happens in another thread."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within a minute")
