"""Cards on the Hub: one that was rendered says so by a checksum, so that what somebody has written there is not overwritten."""

import hashlib
import re
import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from .hub_client import explained


_MARK = "<!-- Rendered by flower_ddim, SHA-256 {}: an edited card is not overwritten. -->"
_RENDERED = re.compile(re.escape(_MARK).replace(r"\{\}", "([0-9a-f]{64})"))

# What the Hub itself writes into the card of a new repository.
_BLANK_TEXTS = ("", "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference")
_BLANK_METADATA = re.compile(
    r"(license\w*|title|emoji|color(From|To)|sdk|(sdk|python)_version|app_file|pinned|short_description):.*"
)


def marked(card: str) -> str:
    """The text of a card with its checksum, in a comment at the end."""
    card = card.rstrip() + "\n"
    return f"{card}\n{_MARK.format(_checksum(card))}\n"


def is_edited(card: str) -> bool:
    """Whether a card holds more than [`marked`] or the Hub has written into it."""
    card = "\n".join(card.splitlines()).strip()
    if mark := _RENDERED.search(card):
        return mark[1] != _checksum(card[: mark.start()]) or bool(card[mark.end() :])
    metadata, text = re.fullmatch(r"(?:---\n(.*?)(?:^|\n)---\s*)?(.*)", card, re.DOTALL | re.MULTILINE).groups()
    lines = (metadata or "").splitlines()
    return text.strip() not in _BLANK_TEXTS or not all(map(_BLANK_METADATA.fullmatch, lines))


def check_card(repo_id: str, token: str | None = None, repo_type: str = "model") -> str:
    """Makes sure that the card of a repository may be overwritten; returns the commit of which that is known.

    Raises:
        OSError: if the Hub cannot be reached or refuses.
        ValueError: if somebody has edited the card, with the ways out.
    """
    api = HfApi(token=token)
    with explained(f"The card of {repo_id} cannot be read"), tempfile.TemporaryDirectory() as folder:
        repository = api.repo_info(repo_id, repo_type=repo_type)
        if not any(file.rfilename == "README.md" for file in repository.siblings or ()):
            return repository.sha
        options = {"revision": repository.sha, "repo_type": repo_type, "local_dir": folder}
        card = Path(api.hf_hub_download(repo_id, "README.md", **options)).read_text(encoding="utf-8")
    if is_edited(card):
        raise ValueError(
            f"The card of {repo_id} was edited on the Hub, so nothing was uploaded: upload all but the card with `--keep_card`, or "
            "give it up with `--overwrite_card`; in Python, `keep_card=True` or `overwrite_card=True`."
        )
    return repository.sha


def _checksum(card: str) -> str:
    return hashlib.sha256("\n".join(card.splitlines()).rstrip().encode()).hexdigest()
