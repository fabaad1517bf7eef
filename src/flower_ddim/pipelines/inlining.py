"""Modules that stand alone: one source of a module and of the modules of this package that it imports."""

import ast
from pathlib import Path


def standalone_source(file: str | Path) -> str:
    """Source of a module, with the body of every module of this package that it imports in front of its own.

    Imports of other packages come first, each once. `from ..room import module`, which only makes sure that a module is loaded,
    is left out. A source that imports nothing of this package comes back as it is.
    """
    file = Path(file).resolve()
    imports, bodies = {}, []
    _collect(file, imports, bodies, set())
    source = file.read_text(encoding="utf-8")
    if len(bodies) == 1:
        return source
    docstring = ast.parse(source).body[0]
    head = source.splitlines()[: docstring.end_lineno]
    return "\n".join([*head, "", *_import_lines(imports), "", "", *bodies]).rstrip() + "\n"


def _collect(file: Path, imports: dict[str, set[str]], bodies: list[str], done: set[Path]):
    """Adds what a module and those below it import from elsewhere, and their bodies, each after those that it needs."""
    done.add(file)
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    docstring, *nodes = ast.parse(source).body
    end = docstring.end_lineno
    for node in nodes:
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        end = node.end_lineno
        if isinstance(node, ast.Import) or not node.level:
            imports.setdefault(getattr(node, "module", None), set()).update(map(ast.unparse, node.names))
        elif (module := _module_file(file, node)).is_file() and module not in done:
            _collect(module, imports, bodies, done)
    name = f"{file.parent.name}/{file.name}"
    bodies.append(f"# From {name}.\n" + "\n".join(lines[end:]).strip("\n") + "\n\n")


def _import_lines(imports: dict[str | None, set[str]]) -> list[str]:
    plain = [f"import {name}" for name in imports.pop(None, ())]
    return sorted([*plain, *(f"from {module} import {', '.join(sorted(names))}" for module, names in imports.items())])


def _module_file(file: Path, node: ast.ImportFrom) -> Path:
    """The file that `from ..room.module import name` in `file` names; there is none for `from ..room import module`."""
    folder = file.parents[node.level - 1]
    return folder / f"{(node.module or '').replace('.', '/')}.py"
