"""Puts measured numbers into documents, between two marks."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .files import check_output, write_text


def check_blocks(document: str | Path, names: Iterable[str]):
    """Makes sure that a document has a place for every one of these blocks. A caller asks before it measures.

    Raises:
        OSError: if there is no such document, or it cannot be written.
        ValueError: if it lacks the two marks of a block.
    """
    check_output(document)
    for name in names:
        _split(document, name)


def replace_block(document: str | Path, name: str, text: str):
    """Replaces what stands between the lines `<!-- NAME -->` and `<!-- /NAME -->` of a document by `text`.

    Raises:
        ValueError: if the document does not have both marks, in this order.
    """
    before, after = _split(document, name)
    write_text(document, before + text + after)


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: the cells of its head, and those of every line."""
    rule = "|---" * len(head) + "|\n"
    head, *lines = (f"| {' | '.join(line)} |\n" for line in (head, *lines))
    return "".join((head, rule, *lines))


def _split(document: str | Path, name: str) -> tuple[str, str]:
    """The document up to the first mark of a block, and from the second one on, with the marks."""
    document = Path(document)
    before, begin, rest = document.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"{document} has no place for {name}: add the lines <!-- {name} --> and <!-- /{name} -->.")
    return before + begin, end + after
