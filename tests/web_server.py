"""The npm packages of the tests of the page."""

from pathlib import Path

import pytest


PACKAGES = Path(__file__).parent / "web" / "node_modules"
RUNTIME = PACKAGES / "onnxruntime-web"

needs_packages = pytest.mark.skipif(
    not RUNTIME.is_dir(), reason="the npm packages are missing: `make test-browser` installs them"
)
