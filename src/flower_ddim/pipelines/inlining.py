"""Modules that stand alone: the source of a module with the modules of this package that it imports written into it."""

import ast
from pathlib import Path


PACKAGE = Path(__file__).parent.parent


def standalone_source(file: str | Path) -> str:
    """Source of a module of this package, with the source of a module in place of `from .module import name`.

    `from .room import module`, which only makes sure that a module is loaded, is left out. A source that imports nothing of this
    package comes back as it is.
    """
    return "\n".join(_standalone_lines(Path(file), set())) + "\n"


def _standalone_lines(file: Path, done: set[Path]) -> list[str]:
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):  # from the end, so that line numbers stay true
        if isinstance(node, ast.ImportFrom) and node.level:
            module = _module_file(file, node)
            inlined = []
            if module.is_file() and module not in done:
                done.add(module)
                name = module.relative_to(PACKAGE).as_posix()
                inlined = ["", "", f"# From {name}.", *_standalone_lines(module, done)]
            lines[node.lineno - 1 : node.end_lineno] = inlined
    return lines


def _module_file(file: Path, node: ast.ImportFrom) -> Path:
    """The file that `from ..room.module import name` in `file` names; there is none for `from ..room import module`."""
    folder = file.parents[node.level - 1]
    return folder / f"{(node.module or '').replace('.', '/')}.py"
