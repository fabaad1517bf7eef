"""A small server on the loopback that speaks as much of the Hub's protocol as uploads and downloads need.

Models, data sets and Spaces; private ones are there for those with the token only. The client must not use Xet
(`HF_HUB_DISABLE_XET=1`), the Hub's newer protocol for large files, which is not spoken here.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


TOKEN = "hf_test_token"
# What an upload of a pipeline with its card consists of.
UPLOADED = [
    "README.md",
    "interpolation.png",
    "model_index.json",
    "pipeline_flower_ddim.py",
    "samples.png",
    "scheduler/scheduler_config.json",
    "scheduler/scheduling_flower_ddim.py",
    "steps.png",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/unet_flower_ddim.py",
]
TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


class Repository:
    """`commits` maps every commit to the files as of then, by path; `head` is the newest."""

    def __init__(self, private, details):
        self.private, self.details = private, details
        self.commits = {"0" * 40: {}}
        self.head = "0" * 40

    @property
    def files(self):
        return self.commits[self.head]

    def commit(self, files):
        content = [self.head, *sorted((path, hashlib.sha256(data).hexdigest()) for path, data in files.items())]
        self.head = hashlib.sha1(repr(content).encode()).hexdigest()
        self.commits[self.head] = files


class HubServer(ThreadingHTTPServer):
    """`repositories` by type and name (`"model"`, `"me/flowers"`). `faults` says what fails and how, by name of the repository.

    What can fail is `create`, `preupload`, `batch`, `upload`, `commit`, `info`, `tree` and `resolve`. A fault is a status to answer
    with, or `"hang up"`: the connection breaks before the answer.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {}
        self.objects = {}
        self.faults = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def model(self, name):
        return self.repositories["model", name]

    def add(self, kind, name, files, private=False):
        """Puts a repository there, as if somebody had uploaded it."""
        self.repositories[kind, name] = Repository(private, {})
        self.repositories[kind, name].commit(files)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    # What the paths look like; spaces and data sets have a prefix where models have none.
    ROUTES = [
        ("POST", "create", r"/api/repos/create"),
        ("POST", "yaml", r"/api/validate-yaml"),
        ("POST", "preupload", r"/api/(?P<kind>\w+)/(?P<name>[^/]+/[^/]+)/preupload/.+"),
        ("POST", "commit", r"/api/(?P<kind>\w+)/(?P<name>[^/]+/[^/]+)/commit/.+"),
        ("POST", "paths", r"/api/(?P<kind>\w+)/(?P<name>[^/]+/[^/]+)/paths-info/(?P<revision>.+)"),
        ("POST", "batch", r"(/(?P<kind>datasets|spaces))?/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch"),
        ("PUT", "upload", r"/objects/(?P<name>[^/]+/[^/]+)/(?P<oid>\w+)"),
        ("GET", "tree", r"/api/(?P<kind>\w+)/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?"),
        ("GET", "info", r"/api/(?P<kind>\w+)/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>.+))?"),
        ("GET", "resolve", r"(/(?P<kind>datasets|spaces))?/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
    ]  # fmt: skip

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:  # the client has gone, as clients may
            self.close_connection = True

    def do_GET(self):
        self.route("GET")

    def do_HEAD(self):
        self.route("GET")

    def do_POST(self):
        self.route("POST")

    def do_PUT(self):
        self.route("PUT")

    def route(self, method):
        body = self.body()
        path = self.path.partition("?")[0]
        matches = [(action, re.fullmatch(pattern, path)) for verb, action, pattern in self.ROUTES if verb == method]
        action, match = next(((action, match) for action, match in matches if match), (None, None))
        if match is None:
            return self.error(404, "EntryNotFound")
        arguments = match.groupdict()
        name = self.created(body) if action == "create" else arguments.get("name")
        fault = self.server.faults.get(name, {}).get(action)
        if fault == "hang up":
            self.close_connection = True
            return self.connection.close()
        if fault:
            return self.error(fault)
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}") or (token is None and action in ("create", "preupload", "commit")):
            return self.error(401)
        kind = TYPES.get(arguments.pop("kind", None) or "models")
        if action not in ("create", "yaml", "upload"):
            repository = self.server.repositories.get((kind, arguments["name"]))
            if repository is None or (repository.private and token is None):
                return self.error(404 if token else 401, "RepoNotFound")
            revision = arguments.pop("revision", None)
            commit = repository.head if revision in (None, "main") else revision
            if commit not in repository.commits:
                return self.error(404, "RevisionNotFound")
            arguments |= {"repository": repository, "commit": commit}
        return getattr(self, f"answer_{action}")(body, kind, **arguments)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def send(self, data, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def answer(self, content, status=200, **headers):
        self.send(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

    def error(self, status, code=None):
        headers = {"X_Error_Code": code} if code else {}
        self.answer({"error": f"Error {status}"}, status, X_Error_Message=f"Error {status}", **headers)

    @staticmethod
    def created(body):
        request = json.loads(body)
        return f"{request.get('organization') or 'me'}/{request['name']}"

    def answer_create(self, body, _):
        request, name = json.loads(body), self.created(body)
        key = request.get("type") or "model", name
        self.server.repositories.setdefault(key, Repository(request.get("visibility") == "private", request))
        return self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def answer_yaml(self, *_):
        self.answer({"errors": [], "warnings": []})

    def answer_preupload(self, body, kind, **_):
        files = json.loads(body)["files"]
        modes = [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in files]
        self.answer({"files": modes})

    def answer_batch(self, body, kind, name, **_):
        objects = json.loads(body)["objects"]
        where = f"{self.server.url}/objects/{name}"
        uploads = [o | {"actions": {"upload": {"href": f"{where}/{o['oid']}"}}} for o in objects]
        self.answer({"transfer": "basic", "objects": uploads})

    def answer_upload(self, body, kind, name, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.error(400)
        self.server.objects[oid] = body
        return self.answer({})

    def answer_commit(self, body, kind, name, repository, commit):
        files = dict(repository.files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, commit):
                return self.error(412)
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        before = repository.head
        repository.commit(files)
        url = f"{self.server.url}/{name}/commit/{repository.head}"
        answer = {"success": True, "commitOid": repository.head, "commitUrl": url, "hookOutput": ""}
        if "create_pr=1" in self.path:  # a proposal changes nothing yet
            repository.head = before
            answer["pullRequestUrl"] = f"{self.server.url}/{name}/discussions/1"
        return self.answer(answer)

    def answer_info(self, body, kind, name, repository, commit):
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        described = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []}
        self.answer(described | ({"modelId": name} if kind == "model" else {}))

    def answer_tree(self, body, kind, name, repository, commit, folder):
        files = repository.commits[commit]
        prefix = f"{folder}/" if folder else ""
        inside = {path: data for path, data in files.items() if path.startswith(prefix)}
        if files and not inside:
            return self.error(404, "EntryNotFound")
        if "recursive=true" in self.path.lower():
            return self.answer([describe(path, data) for path, data in inside.items()])
        children = sorted({path[len(prefix) :].split("/")[0] for path in inside})
        folders = [{"type": "directory", "path": prefix + c, "oid": ""} for c in children if prefix + c not in files]
        return self.answer(
            folders + [describe(prefix + c, files[prefix + c]) for c in children if prefix + c in files]
        )

    def answer_paths(self, body, kind, name, repository, commit):
        files = repository.commits[commit]
        wanted = json.loads(body)["paths"]
        self.answer([describe(path, files[path]) for path in wanted if path in files])

    def answer_resolve(self, body, kind, name, repository, commit, path):
        data = repository.commits[commit].get(path)
        if data is None:
            return self.error(404, "EntryNotFound")
        etag = hashlib.sha256(data).hexdigest()
        return self.send(data, ETag=f'"{etag}"', X_Repo_Commit=commit, Content_Type="application/octet-stream")


def mode(path):
    return "lfs" if path.endswith((".safetensors", ".png", ".parquet")) else "regular"


def describe(path, data):
    description = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if mode(path) == "lfs":
        description["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return description


def run_hub_script(name, *arguments, hub, home, token=TOKEN):
    """Runs a script with the Hub at an address of ours: the client reads it when it is imported."""
    environment = {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "PATH": "", "HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, *map(str, [Path(__file__).parent.parent / "scripts" / name, *arguments])],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
