"""A model hub on this machine: the part of the Hugging Face hub's HTTP that a download uses, with a log of requests.

As on the real hub, weights are redirected to a store on another origin, and everything else comes from the hub itself.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote

RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
STORED = (".safetensors", ".bin")  # what the real hub keeps in LFS
PAGE = b"<!DOCTYPE html><html><body>Please sign in to this network.</body></html>\n"


class Request(NamedTuple):
    method: str
    path: str
    range: str | None

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


class HubServer:
    """Repositories as `{commit: {file name: content}}` with branches and tags, served on two ports of 127.0.0.1."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.requests: list[Request] = []
        self.xet = False  # announce the weights as in Xet storage, of which this hub has nothing
        self.portal = False  # answer everything with a page, as the login page of a network does
        self.damaged: dict[str, bytes] = {}  # file name: what is sent in place of its content
        self.cuts: dict[str, list[int]] = {}  # file name: the next answers break off after so many bytes
        self.reset = False  # break off with a TCP reset, not with an orderly end of the stream
        self.tokens = {"hf_writes"}  # that may write
        self.forbidden: set[str] = set()  # organisations in which they may not
        self.conflict = False  # somebody else's commit always comes between
        self.private: dict[str, bool] = {}
        self.stored: dict[str, bytes] = {}  # large files that were pushed, by SHA-256
        self.messages: list[str] = []  # of commits that were pushed
        self.connections: set[socket.socket] = set()
        self._servers = []
        for _ in range(2):
            server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
            server.daemon_threads = False  # closing it waits for its threads, so that no socket is left open
            server.hub = self
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
            self._servers.append(server)
        self.url, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):  # gone already
                connection.shutdown(socket.SHUT_RDWR)
        for server in self._servers:
            server.server_close()
        self._servers = []

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Make `files` the whole content of a branch, and return the hash of the commit."""
        number = len(self.commits.setdefault(repo, {}))
        commit = hashlib.sha1(f"{repo} {number}".encode()).hexdigest()
        self.commits[repo][commit] = files
        self.refs.setdefault(repo, {})[branch] = commit
        return commit

    def files(self, method: str) -> list[str]:
        """The names of the files asked for with a method, in order."""
        return [request.file for request in self.requests if request.method == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def setup(self) -> None:
        super().setup()
        self.hub = self.server.hub
        self.hub.connections.add(self.connection)

    def finish(self) -> None:
        self.hub.connections.discard(self.connection)
        super().finish()

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.hub.requests.append(Request(self.command, self.path, self.headers.get("Range")))
        at_store = self.hub.store.endswith(f":{self.server.server_port}")
        match = RESOLVE.fullmatch(unquote(self.path))
        if self.hub.portal:
            self._send(200, PAGE, {"Content-Type": "text/html"})
        elif "/xet-read-token/" in self.path:
            grant = {"X-Xet-Cas-Url": self.hub.store, "X-Xet-Access-Token": "x", "X-Xet-Token-Expiration": "9999999999"}
            self._send(200, b"", grant)
        elif match is None:
            self._send(404, b"", {})
        else:
            self._resolve(match["repo"], match["revision"], match["file"], at_store)

    do_GET = do_HEAD

    def do_POST(self) -> None:
        """What a client asks for to push files: a repository, a branch, how files are sent, a commit."""
        self.hub.requests.append(Request(self.command, self.path, None))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path)
        if self.headers.get("Authorization") not in (None, *(f"Bearer {token}" for token in self.hub.tokens)):
            return self._refuse(401, "InvalidToken", {"X-Error-Message": "Invalid user token."})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] in self.hub.forbidden:
                return self._refuse(403, "Forbidden", {"X-Error-Message": "You don't have the rights."})
            if repo in self.hub.commits:
                return self._json(
                    {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"}, 409
                )
            self.hub.commit(repo, {})
            self.hub.private[repo] = asked.get("visibility") == "private"
            return self._json({"url": f"{self.hub.url}/{repo}"})
        if match := re.fullmatch("/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            refs = self.hub.refs[match[1]]
            if match[2] in refs:
                return self._json({"error": "Reference already exists"}, 409)
            refs[match[2]] = refs["main"]
            return self._json({})
        if match := re.fullmatch("/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(STORED) else "regular" for name in names}
            return self._json(
                {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
            )
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for wanted in objects:
                if wanted["oid"] not in self.hub.stored:
                    wanted["actions"] = {"upload": {"href": f"{self.hub.store}/lfs/{wanted['oid']}"}}
            return self._json({"transfer": "basic", "objects": objects})
        if match := re.fullmatch("/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            return self._commit(match[1], match[2], [json.loads(line) for line in body.splitlines() if line])
        return self._send(404, b"", {})

    def do_PUT(self) -> None:
        """A large file, as it is stored."""
        self.hub.requests.append(Request(self.command, self.path, None))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.stored[hashlib.sha256(content).hexdigest()] = content
        self._send(200, b"", {})

    def _commit(self, repo: str, branch: str, lines: list[dict[str, Any]]) -> None:
        if self.hub.conflict:
            return self._json({"error": "A commit has happened since. Please refresh and try again."}, 412)
        files = dict(self.hub.commits[repo][self.hub.refs[repo][branch]])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.hub.stored[value["oid"]]
        commit = self.hub.commit(repo, files, branch)
        return self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _json(self, found: Any, status: int = 200) -> None:
        self._send(status, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo: str, revision: str, name: str, at_store: bool) -> None:
        if repo not in self.hub.commits:  # 401, not 404: to the unknown, it might be private
            return self._refuse(401, "RepoNotFound", {"X-Error-Message": "Invalid username or password."})
        if repo in self.hub.gated:
            return self._refuse(401, "GatedRepo", {"X-Error-Message": f"Access to model {repo} is restricted."})
        commit = self.hub.refs[repo].get(revision, revision)
        if commit not in self.hub.commits[repo]:
            return self._refuse(404, "RevisionNotFound", {})
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        content = self.hub.commits[repo][commit].get(name)
        if content is None:
            return self._refuse(404, "EntryNotFound", headers)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if name.endswith(STORED) and not at_store:
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": etag}
            headers["Location"] = f"{self.hub.store}/{repo}/resolve/{commit}/{name}"
            if self.hub.xet:
                headers["X-Xet-Hash"] = hashlib.sha256(content).hexdigest()
                headers["X-Xet-Refresh-Route"] = f"{self.hub.url}/api/models/{repo}/xet-read-token/{commit}"
            return self._send(302, b"", headers)
        headers["ETag"] = etag
        if self.command == "GET":
            content = self.hub.damaged.get(name, content)
        if (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) is None:
            return self._send(200, content, headers, name)
        start = int(asked[1])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(206, content[start:], headers, name)

    def _refuse(self, status: int, code: str, headers: dict[str, str]) -> None:
        self._send(status, b"", headers | {"X-Error-Code": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str], name: str = "") -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hub.cuts.get(name)
        if not cuts:
            self.wfile.write(body)
            return
        self.wfile.write(body[: cuts.pop(0)])
        self.close_connection = True
        if self.hub.reset:
            linger = struct.pack("ii", 1, 0)  # closing then discards what is unsent and resets
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            socket.close(self.connection.detach())
