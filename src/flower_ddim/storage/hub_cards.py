"""Cards on the Hub: one that was rendered says so by a checksum, so that what somebody has written there is not overwritten."""

import hashlib
import re
import tempfile
from pathlib import Path

import yaml
from huggingface_hub import HfApi

from .hub_client import explained


_MARK = "<!-- Rendered by flower_ddim, SHA-256 {}: an edited card is not overwritten. -->"
_RENDERED = re.compile(re.escape(_MARK).replace(r"\{\}", "([0-9a-f]{64})"))

# What the Hub itself writes into the card of a new repository.
_BLANK_TEXTS = ("", "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference")
_BLANK_METADATA = re.compile(
    r"(license\w*|title|emoji|color(From|To)|sdk|(sdk|python)_version|app_file|pinned|short_description):.*"
)
_CARD = re.compile(r"(?:---\n(.*?)(?:^|\n)---\s*)?(.*)", re.DOTALL | re.MULTILINE)
# Of this, what people choose when they make a repository, and only they know.
_CHOICES = re.compile(r"license\w*|emoji|color(From|To)|pinned|short_description")


def marked(card: str) -> str:
    """The text of a card with its checksum, in a comment at the end."""
    card = card.rstrip() + "\n"
    return f"{card}\n{_MARK.format(_checksum(card))}\n"


def was_rendered(card: str) -> bool:
    """Whether a card is one of [`marked`], edited since or not."""
    return bool(_RENDERED.search(card))


def is_edited(card: str) -> bool:
    """Whether a card holds more than [`marked`] or the Hub has written into it."""
    card = "\n".join(card.splitlines()).strip()
    if mark := _RENDERED.search(card):
        return mark[1] != _checksum(card[: mark.start()]) or bool(card[mark.end() :])
    metadata, text = _CARD.fullmatch(card).groups()
    lines = (metadata or "").splitlines()
    return text.strip() not in _BLANK_TEXTS or not all(map(_BLANK_METADATA.fullmatch, lines))


def check_card(repo_id: str, token: str | None = None, repo_type: str = "model") -> str:
    """Makes sure that the card of a repository may be overwritten; returns the commit of which that is known.

    Raises:
        OSError: if the Hub cannot be reached or refuses.
        ValueError: if somebody has edited the card, with the ways out.
    """
    commit, card = _read_card(repo_id, token, repo_type)
    if is_edited(card):
        raise ValueError(
            f"The card of {repo_id} was edited on the Hub, so nothing was uploaded: upload all but the card with `--keep_card`, or "
            "give it up with `--overwrite_card`; in Python, `keep_card=True` or `overwrite_card=True`."
        )
    return commit


def choices_on_hub(repo_id: str, token: str | None = None, repo_type: str = "model") -> dict:
    """What somebody has chosen for a repository and its card tells by its head: the licence, and the looks of a Space.

    Raises:
        OSError: if the Hub cannot be reached or refuses.
    """
    return {
        name: value
        for name, value in _metadata(_read_card(repo_id, token, repo_type)[1]).items()
        if isinstance(value, (str, bool)) and _CHOICES.fullmatch(str(name))
    }


def with_choices(card: str, choices: dict) -> str:
    """A card of [`marked`] whose head also tells the choices of which it says nothing; another licence takes the place of all."""
    own = _metadata(card)
    if own.get("license", choices.get("license")) != choices.get("license"):
        choices = {name: value for name, value in choices.items() if not name.startswith("license")}
    added = {name: value for name, value in choices.items() if name not in own}
    if not added:
        return card
    added = yaml.safe_dump(added, allow_unicode=True, sort_keys=False)
    return marked(_RENDERED.sub("", card).replace("---\n", f"---\n{added}", 1))


def _read_card(repo_id: str, token: str | None, repo_type: str) -> tuple[str, str]:
    """The commit that is the newest, and the card in it, which is empty if there is none."""
    api = HfApi(token=token)
    with explained(f"The card of {repo_id} cannot be read"), tempfile.TemporaryDirectory() as folder:
        repository = api.repo_info(repo_id, repo_type=repo_type)
        if not any(file.rfilename == "README.md" for file in repository.siblings or ()):
            return repository.sha, ""
        options = {"revision": repository.sha, "repo_type": repo_type, "local_dir": folder}
        file = Path(api.hf_hub_download(repo_id, "README.md", **options))
        return repository.sha, file.read_text(encoding="utf-8", errors="replace")


def _metadata(card: str) -> dict:
    """The head of a card; empty if it has none that can be read."""
    try:
        metadata = yaml.safe_load(_CARD.fullmatch("\n".join(card.splitlines()).strip())[1] or "")
    except yaml.YAMLError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _checksum(card: str) -> str:
    return hashlib.sha256("\n".join(card.splitlines()).rstrip().encode()).hexdigest()
