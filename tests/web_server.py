"""A server of static files, such as a page is put on, and the npm packages of the tests."""

import functools
import http.server
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest


PACKAGES = Path(__file__).parent / "web" / "node_modules"
RUNTIME = PACKAGES / "onnxruntime-web"
ISOLATION = {"Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Opener-Policy": "same-origin"}

needs_packages = pytest.mark.skipif(
    not RUNTIME.is_dir(), reason="the npm packages are missing: `make test-browser` installs them"
)


class _Handler(http.server.SimpleHTTPRequestHandler):
    headers_to_send = {}

    def end_headers(self):
        for name, value in self.headers_to_send.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder, headers=None):
    """Serves a folder, with further headers; yields its address."""
    handler = type("Handler", (_Handler,), {"headers_to_send": headers or {}})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
