"""Breaks the files of a model folder in 500 ways and loads what is left; run in a process of its own by test_security.py.

`python fuzz_loading.py FOLDER SEED` prints one line of JSON for each way: what was done, and what came of it.
"""

import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
from pathlib import Path

import torch
from diffusers.utils import logging

from flower_ddim import FlowerDDIMPipeline


CASES = 500
SECONDS = 20  # for one case
BYTES = 4 * 2**30  # of memory, beyond what the imports take
JSON_FILES = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.getaddrinfo",
)

VALUES = [
    *(None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, 0.5, -1e308, float("nan"), float("inf")),
    *(
        "",
        "x",
        "x" * 100_000,
        "../../../etc/passwd",
        "os.system",
        "__import__('os')",
        "v_prediction",
        "\u0000",
        "\ud800",
    ),
    *([], {}, [None], [[]], [0] * 3, [10**9] * 4, [-1, -2], ["os", "system"], ["builtins", "eval"], ["torch", "load"]),
    *(["diffusers", "UNet2DModel"], ["diffusers", "DDIMScheduler"], {"a": 1}, [10**6, 10**6], [8] * 40),
]
REMOVE, RENAME, NEST = "remove", "rename", "nest"
OF_KEYS = [REMOVE, RENAME, NEST, *VALUES]


def of_text(data, rng):
    """Ways to damage the bytes of a file."""
    at = rng.randrange(len(data))
    return {
        "cut": data[:at],
        "emptied": b"",
        "a bit flipped": data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
        "bytes put in": data[:at] + rng.randbytes(8) + data[at:],
        "bytes replaced": data[:at] + rng.randbytes(8) + data[at + 8 :],
        "no UTF-8": b"\xff\xfe" + data,
        "repeated": data + data,
        "a list": b"[]",
        "a number": b"1e999",
        "null": b"null",
        "nested": b"[" * 100_000,
        "nested deep, closed": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    }


def keys_of(value, path=()):
    """Every place in a JSON value, by the keys and positions that lead there; of long lists, the first place."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    return [p for key, inner in items for p in [(*path, key), *keys_of(inner, (*path, key))]]


def damage_key(value, path, kind):
    """Changes one place of a JSON value."""
    *way, key = path
    inner = value
    for step in way:
        inner = inner[step]
    if kind is REMOVE:
        del inner[key]
    elif kind is RENAME:
        inner[key if isinstance(key, int) else f"{key}_"] = inner.pop(key)
    elif kind is NEST:
        inner[key] = {"": [inner[key]]}
    else:
        inner[key] = kind


def split_header(weights):
    size = struct.unpack("<Q", weights[:8])[0]
    return json.loads(weights[8 : 8 + size]), weights[8 + size :]


def join_header(header, data, length=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def cases(folder, rng):
    """Names of damages, and functions that do them to a folder: every key, and every kind, comes in turn."""
    places = []
    for name in JSON_FILES:
        places += [(name, path) for path in keys_of(json.loads((folder / name).read_text()))]
    header, data = split_header((folder / WEIGHTS).read_bytes())
    some = dict(list(header.items())[:3])
    places += [(WEIGHTS, path) for path in keys_of(some)]
    of_bytes = [(name, kind) for name in (*JSON_FILES, WEIGHTS) for kind in of_text(b"x", rng)]
    of_bytes += [(WEIGHTS, length) for length in (0, 1, 2**20, 2**40, 2**63, 2**64 - 1)]
    rng.shuffle(places)
    for i in range(CASES):
        if i < len(of_bytes):
            yield of_bytes[i]
        else:
            yield (*places[i % len(places)], OF_KEYS[i % len(OF_KEYS)])


def damage(folder, case, rng):
    name, *what = case
    file = folder / name
    content = file.read_bytes()
    if len(what) == 2 and name == WEIGHTS:
        header, data = split_header(content)
        damage_key(header, *what)
        content = join_header(header, data)
    elif len(what) == 2:
        value = json.loads(content)
        damage_key(value, *what)
        content = json.dumps(value).encode()
    elif isinstance(what[0], int):
        content = join_header(*split_header(content), length=what[0])
    else:
        content = of_text(content, rng)[what[0]]
    file.write_bytes(content)


def outcome(folder):
    """Loads a folder and takes one step with it; says what came of it."""
    try:
        pipe = FlowerDDIMPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        pipe(latents=torch.zeros(1, 3, 16, 16), num_inference_steps=1, output_type="pt")
    except Exception as error:
        return {"error": type(error).__name__, "clear": isinstance(error, (ValueError, OSError)), "text": str(error)}
    return {"error": None}


def main():
    folder, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    events = []
    outcome(folder)  # whatever is imported late is imported now
    sys.addaudithook(lambda event, _: events.append(event) if event in FORBIDDEN else None)

    def hang(*_):
        raise SystemExit("A case takes too long.")

    signal.signal(signal.SIGALRM, hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    for case in cases(folder, rng):
        with tempfile.TemporaryDirectory() as scratch:
            copy = shutil.copytree(folder, Path(scratch) / "model")
            damage(copy, case, rng)
            signal.alarm(SECONDS)
            result = outcome(copy)
            signal.alarm(0)
        print(json.dumps({"case": repr(case)[:200], **result, "events": events}), flush=True)
        events.clear()


if __name__ == "__main__":
    main()
