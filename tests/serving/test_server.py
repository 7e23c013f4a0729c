"""The server over real connections: answers, bad uploads of every kind, limits, and many clients."""

import base64
import io
import json
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selfprompt.inference.predictions import Request
from selfprompt.serving.limits import Limits
from tests.serving.running import CLASSES, Running, form, number_picture, running, wait_until

RED = number_picture(200)
JSON = {"Content-Type": "application/json"}
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def server():
    with running(Limits(max_bytes=100_000, max_images=3, max_pixels=10_000)) as server:
        yield server


def connected(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def coded(*images: bytes, **options: object) -> str:
    return json.dumps({"images": [base64.b64encode(image).decode() for image in images], **options})


def test_three_ways_give_the_same_record(server):
    status, records = server.upload(("red.png", RED), ("blue.png", number_picture(7)), top=2)
    assert status == 200
    assert [(record["image"], record["label"]) for record in records] == [
        ("red.png", "class 200"),
        ("blue.png", "class 7"),
    ]
    assert [len(record["top"]) for record in records] == [2, 2]
    _, [in_json], _ = server.ask("POST", "/predict", coded(RED, top=2), JSON)
    _, [raw], _ = server.ask("POST", "/predict?top=2", RED, {"Content-Type": "image/png"})
    assert in_json == raw == records[0] | {"image": "image 0"}


def test_one_bad_image_among_good_ones_has_its_own_error(server):
    status, records = server.upload(("a.png", RED), ("b.txt", b"hello"))
    assert status == 200
    assert records[0]["label"] == "class 200"
    assert records[1] == {"image": "b.txt", "error": "not an image, or of an unknown format"}


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, with little content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def noise() -> bytes:
    written = io.BytesIO()
    Image.effect_noise((90, 90), 80).save(written, "PNG")
    return written.getvalue()


FORM, KIND = form([("a.png", RED)])
BAD_UPLOADS = {
    "nothing": (b"", {"Content-Type": "image/png"}, 400, "no images"),
    "no kind and nothing": (b"", {}, 400, "no images"),
    "text": (b"hello", {"Content-Type": "image/png"}, 422, "image 0 cannot be read: not an image"),
    "a web page": (b"<!doctype html>", {"Content-Type": "image/png"}, 422, "an HTML page"),
    "truncated": (noise()[:3000], {"Content-Type": "image/png"}, 422, "cannot be read: "),
    "a bomb": (
        png_header(60_000, 60_000),
        {"Content-Type": "image/png"},
        422,
        "more pixels than can be opened safely",
    ),
    "too many pixels": (
        png_header(101, 100),
        {"Content-Type": "image/png"},
        422,
        "101 x 100 pixels are more than 10,000",
    ),
    "too large": (bytes(100_001), {"Content-Type": "image/png"}, 413, "may have 100,000 bytes"),
    "of another kind": (RED, {"Content-Type": "application/x-www-form-urlencoded"}, 415, "multipart form"),
    "broken JSON": (b"{", JSON, 400, "not valid JSON"),
    "JSON in a wrong encoding": (b'{"images": "\xff"}', JSON, 400, "not valid JSON"),
    "deep JSON": (b"[" * 9_000, JSON, 400, "not valid JSON"),
    "JSON of many values": (b'{"images": [' + b"[]," * 30_000 + b"1]}", JSON, 400, "JSON may have 10,000 values"),
    "JSON of a large number": (b'{"images": [], "top": ' + b"9" * 5000 + b"}", JSON, 400, "not valid JSON"),
    "a JSON list": (b"[]", JSON, 400, "must be an object with a list"),
    "JSON without images": (b'{"image": []}', JSON, 400, "must be an object with a list"),
    "an empty list": (b'{"images": []}', JSON, 400, "no images"),
    "no base64": (b'{"images": ["!"]}', JSON, 400, "images[0] must be the base64 text"),
    "a number for an image": (b'{"images": [1]}', JSON, 400, "images[0] must be the base64 text"),
    "an empty image": (b'{"images": [""]}', JSON, 422, "image 0 cannot be read: the file is empty"),
    "all bad": (coded(b"x", b"y"), JSON, 422, "None of 2 images can be read. image 0 cannot be read: not an image"),
    "too many in JSON": (coded(*[RED] * 4), JSON, 400, "A request may have 3 images, got 4"),
    "an unknown option": (coded(RED, topp=1), JSON, 400, "Unknown option 'topp'; known: top, unknown, coverage"),
    "a wrong top": (coded(RED, top=0), JSON, 400, "top must be at least 1, got 0"),
    "text for a number": (coded(RED, top="many"), JSON, 400, "top must be a whole number, got 'many'"),
    "a fraction for top": (coded(RED, top=1.5), JSON, 400, "top must be a whole number, got 1.5"),
    "true for top": (coded(RED, top=True), JSON, 400, "top must be a whole number, got True"),
    "a list for unknown": (coded(RED, unknown=[]), JSON, 400, "unknown must be a number, got []"),
    "not a number": (coded(RED, unknown=float("nan")), JSON, 400, "unknown must lie between 0 and 1"),
    "both": (coded(RED, top=2, coverage=0.9), JSON, 400, "top cannot be set with coverage"),
    "uncalibrated": (coded(RED, unknown=0.05), JSON, 400, "need a calibrated classifier"),
    "no boundary": (FORM, {"Content-Type": "multipart/form-data"}, 400, "Missing boundary"),
    "a broken form": (b"--y\r\n\r\n", {"Content-Type": KIND}, 400, "The multipart form cannot be read"),
    "a form that ends early": (FORM[:-30], {"Content-Type": KIND}, 400, "ends early"),
    "an empty form": (b"--x--\r\n", {"Content-Type": KIND}, 400, "no images"),
    "a wrong field": (
        form([("a.png", RED)], "image")[0],
        {"Content-Type": KIND},
        400,
        "in the field images, got one in 'image'",
    ),
    "text in the field": (form([], options={"images": "x"})[0], {"Content-Type": KIND}, 400, "no images"),
    "too many in a form": (form([("a.png", RED)] * 4)[0], {"Content-Type": KIND}, 400, "Too many files"),
    "a long option": (
        form([("a.png", RED)], options={"top": "1" * 2000})[0],
        {"Content-Type": KIND},
        400,
        "form cannot be read",
    ),
}


@pytest.mark.parametrize("kind", BAD_UPLOADS)
def test_a_bad_upload_gets_one_sentence(kind, server):
    body, headers, status, sentence = BAD_UPLOADS[kind]
    found, answer, _ = server.ask("POST", "/predict", body, headers)
    assert (found, list(answer)) == (status, ["error"])
    assert sentence in answer["error"]
    assert "\n" not in answer["error"]
    assert server.upload(("a.png", RED))[0] == 200  # it goes on
    assert server.said == []


@settings(max_examples=60)
@given(
    st.binary(max_size=300),
    st.sampled_from([KIND, "application/json", "image/png", "multipart/form-data; boundary=", "x" * 99]),
)
def test_no_body_breaks_it(server, body, kind):
    for content in (body, FORM[: len(body)] + body, b'{"images": ["' + body):
        status, answer, _ = server.ask("POST", "/predict", content, {"Content-Type": kind})
        assert 400 <= status < 500
        assert list(answer) == ["error"]
    assert server.said == []


def test_a_body_of_unknown_length_is_limited_too(server):
    pieces = (bytes(10_000) for _ in range(11))
    status, answer, _ = server.ask("POST", "/predict", pieces, {"Content-Type": "image/png"})
    assert (status, "100,000 bytes" in answer["error"]) == (413, True)


def test_a_refused_upload_leaves_the_connection_usable(server):
    with connected(server) as client:
        client.sendall(HEAD % 3_000_000 + bytes(3_000_000) + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = _read_until(client, b'"ok"')
    assert said.startswith(b"HTTP/1.1 413 ")


def test_other_addresses_and_methods_get_a_sentence_too(server):
    assert server.ask("GET", "/nowhere")[:2] == (404, {"error": "There is nothing at this address."})
    status, answer, response = server.ask("GET", "/predict")
    assert (status, response.headers["allow"]) == (405, "POST")
    assert answer == {"error": "This address does not take this method."}


def test_what_it_tells_about_itself(server):
    assert server.ask("GET", "/health")[:2] == (200, {"status": "ok", "waiting": 0})
    status, about, response = server.ask("GET", "/classes")
    assert (status, about["title"], about["classes"]) == (200, "numbers", list(CLASSES))
    assert (about["calibrated"], about["max_bytes"], about["max_images"]) == (False, 100_000, 3)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "server" not in response.headers


def test_the_page_is_served_under_a_strict_policy(server):
    for path in ("/", "/classify.js", "/csv.js", "/classify.css", "/backend.js"):
        status, _, response = server.ask("GET", path)
        assert status == 200
        assert "default-src 'none'; script-src 'self';" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers


def test_a_calibrated_classifier_answers_unknown_and_sets():
    with running(calibrated=True, default=Request(unknown=0.05)) as server:
        [default] = server.upload(("a.png", RED))[1]
        assert (default["label"], default["unknown"]) == ("unknown", True)  # its largest logit is low among the known
        _, [known], _ = server.ask("POST", "/predict", coded(RED, unknown=None, coverage=0.9), JSON)
        assert known["label"] == "class 200"
        assert server.upload(("a.png", RED), coverage="0.5", unknown="0.01")[0] == 200


def test_concurrent_clients_get_their_own_answers():
    with running(max_batch=8) as server:

        def ask(number: int) -> bool:
            mine = [number % 256, (number * 7) % 256]
            files = [(f"{number}-{value}.png", number_picture(value)) for value in mine]
            status, records = server.upload(*files)
            expected = [(name, f"class {value}") for (name, _), value in zip(files, mine, strict=True)]
            return status == 200 and [(record["image"], record["label"]) for record in records] == expected

        with ThreadPoolExecutor(24) as pool:
            assert all(pool.map(ask, range(240)))
        assert sum(server.batches) == 480
        assert max(server.batches) <= 8
        assert len(server.batches) < 480  # it does batch across requests


def test_too_many_waiting_requests_are_sent_away():
    with running(Limits(max_waiting=1)) as server, ThreadPoolExecutor(1) as pool:
        server.go.clear()
        waiting = pool.submit(server.upload, ("a.png", RED))
        wait_until(lambda: server.batches)
        status, answer, response = server.ask("POST", "/predict", RED, {"Content-Type": "image/png"})
        assert (status, response.headers["retry-after"]) == (503, "1")
        assert answer == {"error": "Too many requests are waiting; try again soon."}
        assert server.ask("GET", "/health")[0] == 200
        server.go.set()
        assert waiting.result()[0] == 200
        assert server.upload(("a.png", RED))[0] == 200


def test_waiting_requests_hold_limited_bytes():
    with running(Limits(max_bytes=50_000, max_waiting_bytes=80_000)) as server, ThreadPoolExecutor(1) as pool:
        server.go.clear()
        padded = RED + bytes(45_000)  # PNG ends before the padding
        waiting = pool.submit(server.upload, ("a.png", padded))
        wait_until(lambda: server.batches)
        assert server.upload(("a.png", padded))[0] == 503
        server.go.set()
        assert waiting.result()[0] == 200
        assert server.upload(("a.png", padded))[0] == 200


def test_a_failing_model_is_an_error_of_the_server():
    with running() as server:
        server.failure = RuntimeError("out of memory\x1b[31m")
        status, answer = server.upload(("a.png", RED))
        assert (status, answer) == (500, {"error": "The classifier failed; its operator has been told why."})
        wait_until(lambda: server.said)
        assert "RuntimeError: out of memory" in server.said[0]
        server.failure = None
        assert server.upload(("a.png", RED))[0] == 200


SLOW = {
    "nothing": b"",
    "headers byte by byte": b"GET / HTTP/1.1\r\nHost: loc",
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_connection_without_a_request_is_closed(kind):
    with running(Limits(idle_seconds=1)) as server:
        with connected(server) as client:
            client.sendall(SLOW[kind])
            assert _until_closed(client) == b""
        assert server.upload(("a.png", RED))[0] == 200


def test_a_slow_body_gets_a_time_out():
    with running(Limits(idle_seconds=1, body_seconds=1)) as server:
        with connected(server) as client:
            head = (
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nx"
            )
            client.sendall(head)
            said = _until_closed(client)
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 1 seconds" in said


def test_a_connection_stays_open_between_requests_but_not_for_ever():
    with running(Limits(idle_seconds=1)) as server, connected(server) as client:
        for _ in range(2):
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert _read_until(client, b'"waiting": 0}').startswith(b"HTTP/1.1 200 ")
        assert _until_closed(client) == b""


def test_a_client_that_goes_away_harms_nobody():
    with running() as server:
        server.go.clear()
        with connected(server) as client:
            client.sendall(HEAD % len(RED) + RED)
            wait_until(lambda: server.batches)
        with connected(server) as client:
            client.sendall(HEAD % len(RED) + RED[:20])  # gone in the middle of the body
        server.go.set()
        assert server.upload(("a.png", RED))[0] == 200
        assert server.said == []


def _read_until(client: socket.socket, end: bytes) -> bytes:
    said = b""
    while end not in said:
        more = client.recv(65536)
        assert more, said
        said += more
    return said


def _until_closed(client: socket.socket) -> bytes:
    said = b""
    try:
        while more := client.recv(65536):
            said += more
    except ConnectionResetError:
        pass
    return said


@pytest.mark.parametrize(
    ("field", "message"),
    [({"max_images": 0}, "max_images must be at least 1, got 0"), ({"max_waiting_bytes": 5}, "at least max_bytes")],
)
def test_wrong_limits_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        Limits(**field)
