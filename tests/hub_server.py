"""A stand-in for the Hugging Face hub: a local server that speaks the endpoints that publishing and loading use.

Repositories live in memory. A commit is a list of files; tensors go through Git LFS, other files through the commit
itself, as on the hub. Every request is noted as "METHOD /path".
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIX = ".safetensors"


@dataclass
class HubState:
    """What a hub stores.

    Attributes:
        token: The token that may write.
        repositories: For each repository, its commits from old to new: name of the commit and files by path.
        uploads: Contents by SHA-256 that were uploaded through Git LFS.
        created: Bodies of the requests that made repositories.
        requests: Every request.
    """

    token: str = "hf_writer"
    repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        """Add a commit with changed files to a repository; returns its name."""
        commits = self.repositories.setdefault(repository, [])
        whole = {**(commits[-1][1] if commits else {}), **files}
        name = hashlib.sha1(f"{repository}{len(commits)}".encode()).hexdigest()
        commits.append((name, whole))
        return name

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the name and the files of a commit; None if there is none."""
        commits = self.repositories.get(repository, [])
        if revision == "main":
            return commits[-1] if commits else None
        return next((commit for commit in commits if commit[0] == revision), None)


@contextmanager
def hub_server() -> Iterator[HubState]:
    """Run a hub on a free port of this machine."""
    state = HubState()
    handler = type("Handler", (_Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubState

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self._note()
        match path.split("/")[1:]:
            case ["api", "models", owner, name, "revision", revision]:
                self._info(f"{owner}/{name}", unquote(revision))
            case ["api", "models", owner, name]:
                self._info(f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "tree", revision, *_]:
                self._tree(f"{owner}/{name}", unquote(revision))
            case [owner, name, "resolve", revision, *file]:
                self._file(f"{owner}/{name}", unquote(revision), "/".join(file))
            case _:
                self._json({"error": f"no such endpoint: {path}"}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = self._note(), self._body()
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}" and "validate-yaml" not in path:
            self._json({"error": "Invalid credentials"}, 401)
            return
        match path.split("/")[1:]:
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", _]:
                files = json.loads(body)["files"]
                self._json({"files": [self._plan(file["path"]) for file in files]})
            case [_, _, "info", "lfs", "objects", "batch"]:
                self._json({"transfer": "basic", "objects": [self._place(one) for one in json.loads(body)["objects"]]})
            case ["api", "models", owner, name, "commit", "main"]:
                self._commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
            case _:
                self._json({"error": f"no such endpoint: {path}"}, 404)

    def do_PUT(self) -> None:
        digest, body = self._note().rpartition("/")[2], self._body()
        assert hashlib.sha256(body).hexdigest() == digest
        self.hub.uploads[digest] = body
        self._json({})

    def _note(self) -> str:
        url = urlsplit(self.path)
        assert parse_qs(url.query) is not None
        self.hub.requests.append(f"{self.command} {url.path}")
        return url.path

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, wanted: dict[str, Any]) -> None:
        repository = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] == "stranger":
            self._json({"error": "You don't have the rights to create a model under this namespace"}, 403)
            return
        self.hub.created.append(wanted)
        known = repository in self.hub.repositories
        if not known:
            self.hub.add(repository, {".gitattributes": b""})
        self._json({"url": f"{self.hub.url}/{repository}", "id": repository}, 409 if known else 200)

    def _plan(self, path: str) -> dict[str, Any]:
        return {"path": path, "uploadMode": "lfs" if path.endswith(LFS_SUFFIX) else "regular", "shouldIgnore": False}

    def _place(self, one: dict[str, Any]) -> dict[str, Any]:
        upload = {"upload": {"href": f"{self.hub.url}/storage/{one['oid']}"}}
        return {**one, **({} if one["oid"] in self.hub.uploads else {"actions": upload})}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        name = self.hub.add(repository, files)
        self._json({"success": True, "commitOid": name, "commitUrl": f"{self.hub.url}/{repository}/commit/{name}"})

    def _info(self, repository: str, revision: str) -> None:
        commit = self.hub.files(repository, revision)
        if commit is None:
            self._missing(repository, revision)
            return
        siblings = [{"rfilename": path, "size": len(content)} for path, content in commit[1].items()]
        self._json({"id": repository, "sha": commit[0], "private": False, "tags": [], "siblings": siblings})

    def _tree(self, repository: str, revision: str) -> None:
        commit = self.hub.files(repository, revision)
        if commit is None:
            self._missing(repository, revision)
            return
        rows = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in commit[1].items()
        ]
        self._json(rows)

    def _file(self, repository: str, revision: str, file: str) -> None:
        commit = self.hub.files(repository, revision)
        if commit is None or file not in commit[1]:
            self._missing(repository, revision, file if commit else "")
            return
        content = commit[1][file]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit[0]}
        self._send(200, content, "application/octet-stream", headers)

    def _missing(self, repository: str, revision: str, file: str = "") -> None:
        codes = {True: "EntryNotFound" if file else "RevisionNotFound", False: "RepoNotFound"}
        headers = {"X-Error-Code": codes[repository in self.hub.repositories], "X-Error-Message": "not found"}
        self._send(404, b'{"error": "not found"}', "application/json", headers)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", {})

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
