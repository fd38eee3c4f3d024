"""A Hub on this machine: as much of its protocol as the real client uses, and every way to misbehave."""

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = ".safetensors", ".pth"  # stored as large files, which have a sha256


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class LoopbackHub:
    """Repositories in memory behind HTTP.

    Attributes:
        requests: Everything asked, as "METHOD path".
        faults: Pairs of a pattern for "METHOD path" and a fault, which may wear off; the first that
            matches counts.
    """

    def __init__(self):
        self.commits = {}  # (repository, commit) -> {file: content}
        self.branches = {}  # (repository, branch) -> commit
        self.uploads = {}  # sha256 -> content
        self.requests, self.faults = [], []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repo, files, branch="main", gone=()):
        """Add, replace or remove files; return the commit hash."""
        content = self.commits.get((repo, self.branches.get((repo, branch))), {}) | files
        content = {name: data for name, data in content.items() if name not in gone}
        oid = hashlib.sha1(repr(sorted((k, sha256(v)) for k, v in content.items())).encode()).hexdigest()
        self.commits[repo, oid] = content
        self.branches[repo, branch] = oid
        return oid

    def resolve(self, repo, revision):
        commit = self.branches.get((repo, revision), revision)
        return commit, self.commits.get((repo, commit))

    def misbehave(self, pattern, fault, times=10**6):
        """Let the next `times` requests that match a pattern meet a fault."""
        self.faults.insert(0, [re.compile(pattern), fault, times])

    def behave(self):
        self.faults.clear()

    def find_fault(self, request):
        with self.lock:
            for entry in self.faults:
                if entry[0].search(request) and entry[2] > 0:
                    entry[2] -= 1
                    return entry[1]
        return {}

    def count(self, pattern=""):
        return sum(re.search(pattern, request) is not None for request in self.requests)


def load_variant(repo, cache):
    """Load a model from this Hub, in a process of its own, and say what it is."""
    import dcpt

    return dcpt.from_pretrained(repo, cache_dir=cache).variant


def status(code, **headers):
    """The fault of an HTTP status; underscores in header names stand for dashes."""
    return {"status": code, "headers": {name.replace("_", "-"): value for name, value in headers.items()}}


def tamper(change):
    """The fault of changed content under unchanged headers."""
    return {"change": change}


def cut(size):
    """The fault of a connection that breaks after so many bytes."""
    return {"cut": size}


def hang(seconds):
    """The fault of a server that does not answer."""
    return {"hang": seconds}


HTML = {"html": b"<html><body>Please log in to the guest network</body></html>"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_):
        pass

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.hub.requests.append(" ".join(filter(None, (request, self.headers.get("Range")))))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.hub.find_fault(request)
        if "hang" in fault:
            threading.Event().wait(fault["hang"])  # not time.sleep, which a test may have stopped
        if "status" in fault:
            return self.send(fault["status"], b"", fault["headers"])
        if "html" in fault:
            return self.send(200, fault["html"], {"Content-Type": "text/html"})
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, request):
                return method(self, *match.groups(), body=body, fault=fault)
        return self.send(404, b"", {})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, code, content, headers, fault=()):
        self.send_response(code)
        length = len(content)
        if "change" in fault and self.command == "GET":
            content = fault["change"](content)
        for name, value in ({"Content-Length": str(length)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            whole = "cut" not in fault or self.headers.get("Range")
            self.wfile.write(content if whole else content[: fault["cut"]])
            if not whole or len(content) != length:
                self.close_connection = True

    def send_json(self, data, fault=()):
        self.send(200, json.dumps(data).encode(), {"Content-Type": "application/json"}, fault)

    def missing(self, repo):
        known = any(name == repo for name, _ in self.hub.commits)
        self.send(404, b"", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})

    def info(self, repo, _, revision, *, body, fault):
        commit, files = self.hub.resolve(repo, revision or "main")
        if files is None:
            return self.missing(repo)
        siblings = []
        for name, content in files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return self.send_json({"id": repo, "sha": commit, "siblings": siblings, "private": False}, fault)

    def tree(self, repo, revision, *, body, fault):
        _, files = self.hub.resolve(repo, revision)
        entries = [{"type": "file", "path": k, "size": len(v), "oid": git_hash(v)} for k, v in files.items()]
        return self.send_json(entries, fault)

    def file(self, repo, revision, name, *, body, fault):
        commit, files = self.hub.resolve(repo, revision)
        if files is None:
            return self.missing(repo)
        if name not in files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = files[name]
        etag = sha256(content) if name.endswith(LARGE) else git_hash(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        first = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if not first or self.command == "HEAD":
            return self.send(200, content, headers, fault)
        start = int(first[1])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.send(206, content[start:], headers, fault)

    def create(self, *, body, fault):
        data = json.loads(body)
        repo = "/".join(filter(None, (data.get("organization"), data["name"])))
        self.hub.commit(repo, {})
        self.send_json({"url": f"{self.hub.endpoint}/{repo}"})

    def validate(self, *, body, fault):
        self.send_json({"errors": [], "warnings": []})

    def preupload(self, repo, branch, *, body, fault):
        files = json.loads(body)["files"]
        modes = [{"path": f["path"], "shouldIgnore": False} for f in files]
        for mode in modes:
            mode["uploadMode"] = "lfs" if mode["path"].endswith(LARGE) else "regular"
        self.send_json({"files": modes})

    def batch(self, repo, *, body, fault):
        objects = json.loads(body)["objects"]
        for entry in objects:
            entry["actions"] = {"upload": {"href": f"{self.hub.endpoint}/upload/{entry['oid']}"}}
        self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, oid, *, body, fault):
        assert sha256(body) == oid
        self.hub.uploads[oid] = body
        self.send(200, b"", {})

    def store(self, repo, branch, *, body, fault):
        lines = defaultdict(list)
        for line in map(json.loads, body.splitlines()):
            lines[line["key"]].append(line["value"])
        gone = [f["path"] for f in lines["deletedFile"]]
        files = {f["path"]: base64.b64decode(f["content"]) for f in lines["file"]}
        files |= {f["path"]: self.hub.uploads[f["oid"]] for f in lines["lfsFile"]}
        oid = self.hub.commit(repo, files, branch, gone)
        url = f"{self.hub.endpoint}/{repo}/commit/{oid}"
        self.send_json({"commitUrl": url, "commitOid": oid, "pullRequestUrl": None, "success": True})


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (rf"GET /api/models/{REPO}(/revision/(.+))?", Handler.info),
    (rf"GET /api/models/{REPO}/tree/(.+)", Handler.tree),
    (rf"(?:GET|HEAD) /{REPO}/resolve/([^/]+)/(.+)", Handler.file),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/models/{REPO}/preupload/(.+)", Handler.preupload),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /upload/(\w+)", Handler.upload),
    (rf"POST /api/models/{REPO}/commit/(.+)", Handler.store),
]
