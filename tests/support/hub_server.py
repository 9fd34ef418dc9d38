"""A hub on loopback: the HTTP interface that huggingface_hub and datasets ask, over local folders.

Repositories of models and data sets have commits, branches, and files that are read in parts; large
ones lie at another host, as the real hub's do. A `Fault` has an answer of one's own given instead.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_the_test"  # whose owner may read all
LARGE = (".safetensors", ".parquet", ".bin", ".gz")  # kept in another place, as by git-lfs
DATE = "2026-01-02T03:04:05.000Z"


@dataclass
class Repository:
    """id: OWNER/NAME; kind: "models" or "datasets"; commits: their files; names: of commits.

    gated: whether its files are for those alone who have accepted its terms; private: whether
    others are told that it is there.
    """

    id: str
    kind: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def push(
        self, source: Path | Mapping[str, bytes | str], *names: str, sha: str | None = None
    ) -> str:
        """A new commit of a folder's files, to the branch main unless other names are given."""
        files = (
            {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*.*")}
            if isinstance(source, Path)
            else {k: v.encode() if isinstance(v, str) else v for k, v in source.items()}
        )
        parts = sorted((name, sha256(content)) for name, content in files.items())
        made = hashlib.sha1(repr((self.id, len(self.commits), parts)).encode()).hexdigest()
        sha = sha or made
        self.commits[sha] = files
        self.names |= dict.fromkeys(names or ("main",), sha)
        return sha

    def commit(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.names.get(revision)

    def record(self, sha: str, sizes: bool) -> dict[str, Any]:
        files = self.commits[sha]
        return {
            "_id": "0" * 24,
            "id": self.id,
            "author": self.id.partition("/")[0],
            "sha": sha,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "lastModified": DATE,
            "createdAt": DATE,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [
                {"rfilename": name} | ({"size": len(files[name])} if sizes else {})
                for name in sorted(files)
            ],
        }

    def entries(self, sha: str, below: str, recursive: bool) -> list[dict[str, Any]]:
        """What lies in a folder, files and folders, as the hub lists a tree."""
        found: dict[str, dict[str, Any]] = {}
        for name, content in sorted(self.commits[sha].items()):
            inside = name.removeprefix(f"{below}/" if below else "")
            if below and inside == name:
                continue
            parts = inside.split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                path = "/".join([*filter(None, [below]), *parts[:depth]])
                found[path] = {"type": "directory", "path": path, "oid": sha1(path.encode())}
            if recursive or len(parts) == 1:
                found[name] = entry(name, content)
        return list(found.values())


def entry(name: str, content: bytes) -> dict[str, Any]:
    made = {"type": "file", "path": name, "oid": sha1(content), "size": len(content)}
    if name.endswith(LARGE):
        made["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return made


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha1(content: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Fault:
    """The answer to the next `times` requests whose "METHOD PATH" holds the pattern.

    status: None breaks the transfer off after half of what is asked for; then: is done before.
    """

    pattern: str
    status: int | None
    times: int = 10**9
    headers: Mapping[str, str] = field(default_factory=dict)
    then: Callable[[], object] = lambda: None


@dataclass
class Hub:
    """A hub; asked: the requests so far, each "METHOD PATH"; tokens: those that came with them.

    stop: ends it, so that nothing answers at its address.
    """

    address: str
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    def repository(self, id: str, kind: str = "models") -> Repository:
        return self.repositories.setdefault((kind, id), Repository(id, kind))

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, line) is not None for line in self.asked)

    def fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, line):
                fault.times -= 1
                fault.then()
                return fault
        return None


class Refused(Exception):
    """status, code and words, as the hub's own."""

    def __init__(self, status: int, code: str, words: str) -> None:
        super().__init__(words)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": words}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answered()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _answered(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        line = f"{self.command} {unquote(self.path)}"
        self.hub.asked.append(line)
        self.hub.tokens.append(self.headers.get("Authorization", ""))
        fault = self.hub.fault(line)
        if fault is not None and fault.status is not None:
            self._send(b"busy", fault.status, **fault.headers)
            return
        try:
            content, headers = self._content(body)
        except Refused as refused:
            self._send(b"{}", refused.status, **refused.headers)
            return
        status = 302 if "Location" in headers else 200
        self._send(content, status, whole=fault is None, **headers)

    def _send(self, content: bytes, status: int, whole: bool = True, **headers: str) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and status == 200 and self.command == "GET":
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")  # so that none outlives its hub
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if whole else content[: len(content) // 2])

    def _content(self, body: bytes) -> tuple[bytes, dict[str, str]]:
        """What is answered, and headers of its own. Raises Refused."""
        address = urlsplit(self.path)
        path, query = address.path.strip("/"), parse_qs(address.query)
        if found := re.fullmatch(r"cdn/([0-9a-f]{64})", path):
            every = (r.commits.values() for r in self.hub.repositories.values())
            kept = {sha256(c): c for commits in every for files in commits for c in files.values()}
            return kept[found[1]], {"ETag": f'"{found[1]}"'}
        if found := re.fullmatch(r"(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
            kind, id, revision, name = found.groups()
            return self._file(self._repository(kind or "models", id), revision, unquote(name))
        if found := re.fullmatch(r"api/(models|datasets)/([^/]+/[^/]+)(?:/(.+))?", path):
            repository = self._repository(found[1], found[2])
            return json.dumps(self._of(repository, found[3] or "", query, body)).encode(), {
                "Content-Type": "application/json"
            }
        raise Refused(404, "RepoNotFound", "nothing is here")

    def _repository(self, kind: str, id: str) -> Repository:
        repository = self.hub.repositories.get((kind.strip("/"), id))
        if repository is None or (repository.private and not self._may_read):
            # others than users are not told whether a repository is there
            if "Authorization" in self.headers:
                raise Refused(404, "RepoNotFound", "Repository not found")
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        return repository

    @property
    def _may_read(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _check_gate(self, repository: Repository) -> None:
        if repository.gated and not self._may_read:
            status = 403 if "Authorization" in self.headers else 401
            raise Refused(status, "GatedRepo", f"Access to model {repository.id} is restricted.")

    def _commit(self, repository: Repository, revision: str) -> str:
        sha = repository.commit(unquote(revision))
        if sha is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def _file(
        self, repository: Repository, revision: str, name: str
    ) -> tuple[bytes, dict[str, str]]:
        self._check_gate(repository)
        sha = self._commit(repository, revision)
        content = repository.commits[sha].get(name)
        if content is None:
            refused = Refused(404, "EntryNotFound", "Entry not found")
            refused.headers["X-Repo-Commit"] = sha
            raise refused
        headers = {"X-Repo-Commit": sha, "ETag": f'"{sha1(content)}"'}
        if name.endswith(LARGE):
            large = sha256(content)
            headers |= {"X-Linked-ETag": f'"{large}"', "X-Linked-Size": str(len(content))}
            other = self.hub.address.replace("127.0.0.1", "localhost")
            headers["Location"] = f"{other}/cdn/{large}"
            content = b""
        return content, headers

    def _of(self, repository: Repository, what: str, query: Any, body: bytes) -> Any:
        """What the interface says of a repository."""
        name, _, rest = what.partition("/")
        if name == "auth-check":
            self._check_gate(repository)
            return {}
        if name == "refs":
            branches = [
                {"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha}
                for n, sha in repository.names.items()
            ]
            return {"branches": branches, "converts": [], "tags": []}
        revision, _, below = rest.partition("/")
        sha = self._commit(repository, revision or "main")
        if name == "tree":
            recursive = query.get("recursive") in (["true"], ["True"])
            entries = repository.entries(sha, unquote(below), recursive)
            if below and not entries:
                raise Refused(404, "EntryNotFound", f"{below} does not exist")
            return entries
        if name == "paths-info":
            wanted = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
            files = repository.commits[sha]
            folders = {str(parent) for file in files for parent in Path(file).parents}
            return [
                entry(path, files[path])
                if path in files
                else {"type": "directory", "path": path, "oid": sha1(path.encode())}
                for path in (wanted if isinstance(wanted, list) else [wanted])
                if path in files or path in folders
            ]
        if name in ("", "revision"):
            return repository.record(sha, sizes="blobs" in query)
        raise Refused(404, "NotFound", what)


def reserved() -> socket.socket:
    """A port at which nothing answers until `serving` does."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept


@contextmanager
def serving(port: int = 0) -> Iterator[Hub]:
    """A hub without repositories, while the block runs."""
    handler = type("Handler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    handler.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    with ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        handler.hub.stop = stack.close
        yield handler.hub
