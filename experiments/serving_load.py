"""Measure a server under many concurrent clients: requests per second, memory, and whether all answers are right.

Tunes ridge on a task of the embedded suite, starts ``selfprompt serve`` with it at 127.0.0.1, and lets clients send
test images, one after the other each. An answer is right if it has the name of the client's image, and the class and
score that `Classifier.predict` gives for it.

    python -m experiments.serving_load --clients 200 --seconds 60
"""

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from selfprompt.data.suites import load_task
from selfprompt.inference.classifier import Classifier
from selfprompt.training.tune import tune

IMAGES = 100
SCORE_TOLERANCE = 1e-4  # batches of other sizes
WARM_UP = 1 / 6
"""Share of the time after which memory should grow no more."""


@dataclass
class Record:
    """What the clients saw.

    Attributes:
        outcomes: Number of requests by outcome: "right", "wrong", or an error.
        seconds: Time of each answered request.
        memory: Resident memory of the server in MB, once a second.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """A request, and the record that it should get."""

    request: bytes
    image: str
    label: str
    score: float


def main() -> None:
    """Run the experiment and print its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", default="embedded/animals")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        classifier = tune(options.task, method="ridge", backbone="embedded/clip", shots=4, out=Path(folder) / "tuned")
        questions = ask_classifier(classifier, options.task)
        with server(Path(folder) / "tuned") as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().partition("127.0.0.1:")[2].partition(";")[0])
            record = asyncio.run(load(port, process.pid, questions, options.clients, options.seconds))
            process.terminate()
            status = process.wait(60)
    print(summary(record, options.clients, options.seconds))
    print(f"exit status of the server: {status}")


def server(folder: Path) -> "subprocess.Popen[str]":
    """Start the server at a free port."""
    command = [sys.executable, "-m", "selfprompt", "serve", str(folder), "--port", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ask_classifier(classifier: Classifier, task: str) -> list[Question]:
    """Return test images as requests, with what the classifier says of them."""
    contents = []
    for item in load_task(task).dataset.test[:IMAGES]:
        written = io.BytesIO()
        item.load().save(written, "PNG")
        contents.append(written.getvalue())
    questions = []
    for number, (content, one) in enumerate(zip(contents, classifier.predict(contents), strict=True)):
        name = f"{number}.png"
        head = f'--x\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--x--\r\n"
        kind = f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body)}"
        request = f"POST /predict HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n\r\n".encode() + body
        questions.append(Question(request, name, one.label, one.score))
    return questions


async def load(port: int, pid: int, questions: Sequence[Question], clients: int, seconds: float) -> Record:
    """Run all clients for some seconds."""
    record, end = Record(), time.perf_counter() + seconds
    work = [client(port, questions, number, end, record) for number in range(clients)]
    tasks = asyncio.gather(*work)
    for _ in track(range(int(seconds)), "asking"):
        await asyncio.sleep(1)
        record.memory.append(resident_megabytes(pid))
    await tasks
    return record


async def client(port: int, questions: Sequence[Question], number: int, end: float, record: Record) -> None:
    """Ask one question after the other over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (begin := time.perf_counter()) < end:
        question = questions[number % len(questions)]
        number += 1
        try:
            writer.write(question.request)
            record.outcomes[judge(question, *await answer(reader))] += 1
            record.seconds.append(time.perf_counter() - begin)
        except (OSError, EOFError) as error:
            record.outcomes[type(error).__name__] += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read an answer: its status and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


def judge(question: Question, status: int, body: bytes) -> str:
    """Return whether an answer belongs to its question."""
    if status != 200:
        return f"status {status}"
    [found] = json.loads(body)
    same = (found["image"], found["label"]) == (question.image, question.label)
    return "right" if same and abs(found["score"] - question.score) < SCORE_TOLERANCE else "wrong"


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def summary(record: Record, clients: int, seconds: float) -> str:
    """Return the figures as lines."""
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in record.outcomes.most_common())
    quantiles = statistics.quantiles(record.seconds, n=100)
    warm = record.memory[int(len(record.memory) * WARM_UP) :]
    return (
        f"{clients} clients, {seconds:g} s: {outcomes}\n"
        f"{record.outcomes.total() / seconds:.0f} requests/s; seconds per request: median {quantiles[49]:.2f}, "
        f"99 % within {quantiles[98]:.2f}\n"
        f"memory of the server: {record.memory[0]:.0f} MB after 1 s; after warming up {warm[0]:.0f} MB, at most "
        f"{max(warm):.0f} MB, at the end {warm[-1]:.0f} MB"
    )


if __name__ == "__main__":
    main()
