"""Puts measured numbers into documents, between two marks."""

from pathlib import Path

from .files import write_text


def replace_block(document: str | Path, name: str, text: str):
    """Replaces what stands between the lines `<!-- NAME -->` and `<!-- /NAME -->` of a document by `text`.

    Raises:
        ValueError: if the document does not have both marks, in this order.
    """
    document = Path(document)
    before, begin, rest = document.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"{document} has no place for {name}: add the lines <!-- {name} --> and <!-- /{name} -->.")
    write_text(document, before + begin + text + end + after)
