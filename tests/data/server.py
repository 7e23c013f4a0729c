"""A small file server on the loopback address that supports ranges, and breaks connections on request."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from threading import Thread


@dataclass
class Files:
    """The content and the behaviour of the server.

    Attributes:
        content: Path -> bytes.
        breaks: For each of the next responses, the bytes after which its connection breaks.
        statuses: For each of the next requests, the error status of its response.
        ranges: Whether it supports ranges.
        kind: The content type in its responses.
        moved: Path -> the URL that it redirects to.
        seen: The Range header of each request; "" without one.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    kind: str = "application/octet-stream"
    moved: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(secure: SSLContext | None = None) -> Iterator[Files]:
    """Run a server, with https if given a context; ``url`` is its address."""
    files = Files()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self, files)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if secure is not None:
            server.socket = secure.wrap_socket(server.socket, server_side=True)
        files.url = f"http{'s' if secure else ''}://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield files
        finally:
            server.shutdown()
            thread.join()


def respond(request: BaseHTTPRequestHandler, files: Files) -> None:
    requested = request.headers.get("Range", "")
    files.seen.append(requested)
    if request.path in files.moved:
        request.send_response(302)
        request.send_header("Location", files.moved[request.path])
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    if files.statuses or request.path not in files.content:
        request.send_error(files.statuses.pop(0) if files.statuses else 404)
        return
    content = files.content[request.path]
    tag = f'"{hashlib.md5(content).hexdigest()}"'
    start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and files.ranges else 0
    if request.headers.get("If-Range", tag) != tag:
        start = 0
    if start >= len(content) > 0:
        request.send_response(416)
        request.send_header("Content-Range", f"bytes */{len(content)}")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(content) - start))
    request.send_header("Content-Type", files.kind)
    request.send_header("ETag", tag)
    request.end_headers()
    limit = files.breaks.pop(0) if files.breaks else len(content)
    request.wfile.write(content[start : start + limit])
