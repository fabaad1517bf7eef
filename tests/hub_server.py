"""A small server on the loopback that speaks as much of the Hub's protocol as an upload needs."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


TOKEN = "hf_test_token"


class HubServer(ThreadingHTTPServer):
    """Keeps repositories as dictionaries: `private`, and `files` by path as of the newest commit."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {}
        self.objects = {}
        self.fail_commits_with = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def do_PUT(self):
        data = self.body()
        oid = self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.objects[oid] = data
        self.answer({})

    def do_POST(self):
        body = self.body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401)
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        repository = "/".join(self.path.removeprefix("/api/models").removeprefix("/").split("/")[:2]).removesuffix(
            ".git"
        )
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": self.mode(f["path"]), "shouldIgnore": False} for f in files]
            return self.answer({"files": modes})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            uploads = [o | {"actions": {"upload": {"href": f"{self.server.url}/objects/{o['oid']}"}}} for o in objects]
            return self.answer({"transfer": "basic", "objects": uploads})
        if "/commit/" in self.path:
            return self.commit(repository, [json.loads(line) for line in body.splitlines()])
        return self.answer({"error": f"Unknown {self.path}"}, 404)

    @staticmethod
    def mode(path):
        return "lfs" if path.endswith((".safetensors", ".png")) else "regular"

    def create(self, request):
        name = f"{request.get('organization') or 'me'}/{request['name']}"
        if name.startswith("others/"):
            return self.answer({"error": "Forbidden"}, 403)
        repository = {"private": request.get("visibility") == "private", "files": {}}
        self.server.repositories.setdefault(name, repository)
        return self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def commit(self, repository, lines):
        if self.server.fail_commits_with:
            return self.answer({"error": "Broken"}, self.server.fail_commits_with)
        files = self.server.repositories[repository]["files"]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        oid = hashlib.sha1(str(sorted(files)).encode()).hexdigest()
        url = f"{self.server.url}/{repository}/commit/{oid}"
        return self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})
