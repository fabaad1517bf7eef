"""Finds the pictures or the Parquet files of a folder, and the split that each of them belongs to.

Names are taken literally: what would be a pattern or an address elsewhere (`[2024]`, `b?`, `a::b`) is a name here.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from .picture_files import picture_suffixes


logger = logging.getLogger(__name__)

# Names that a split may have, in folders and files.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, known_as in SPLITS.items() for name in known_as}


def list_files(folder: Path) -> list[Path]:
    """The files below a folder, those of linked folders as well, relative to it and in the order of their paths.

    Leaves out what is hidden, whatever has a name that begins with a dot, and, with a warning, names that are not UTF-8: tables
    of paths cannot hold them.

    Raises:
        OSError: if a folder in it cannot be read.
    """
    files = sorted(_walk(folder, Path(), [folder.resolve()]), key=Path.as_posix)
    named = [file for file in files if _is_text(str(file))]
    if unnamed := [ascii(str(file)) for file in files if not _is_text(str(file))]:
        logger.warning(
            f"{folder}: {_counted(unnamed)} skipped: {', '.join(unnamed[:3])}{' and others' if unnamed[3:] else ''} (names "
            "that are not UTF-8: rename them)."
        )
    return named


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8; of another one Python keeps the bytes as half characters."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _walk(folder: Path, inner: Path, entered: list[Path]) -> Iterable[Path]:
    for path in (folder / inner).iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield inner / path.name
        elif (place := path.resolve()) not in entered:  # a link to where we come from would lead in circles
            yield from _walk(folder, inner / path.name, [*entered, place])


def picture_files(folder: Path, files: list[Path]) -> dict[str, dict[str, str | None]] | None:
    """The pictures of every split, absolute paths with their classes; `None` for a folder of Parquet or other files.

    The class of a picture is the name of the folder that holds it; those that lie beside the splits or in a split have none.

    The folders at the top are splits if all that hold pictures have names of `SPLITS` and no picture lies outside of them.
    Otherwise all pictures are one split, "train". A warning names what is skipped: files that are no raster pictures.
    """
    pictures = _pictures(files)
    if not pictures or _tables(files):
        return None
    skipped = set(files) - set(pictures)
    if skipped:
        logger.warning(
            f"{folder}: {_counted(skipped)} skipped: {suffixes(skipped)} (no pictures that can be read here)."
        )
    splits = _by_split(folder, pictures, _split_of_top_folder)
    top = 1 if all(map(_split_of_top_folder, pictures)) else 0  # folders that are splits
    return {
        split: {path: next(iter(Path(path).relative_to(folder).parts[top:-1][-1:]), None) for path in paths}
        for split, paths in splits.items()
    }


def parquet_files(folder: Path, files: list[Path]) -> dict[str, list[str]] | None:
    """The Parquet files of every split as absolute paths, or `None` if there are none; a table about pictures is none.

    The splits are those in the names of files or of their folders (`train.parquet`, `data/train-00000-of-00001.parquet`,
    `test/0.parquet`) if all have one. Otherwise all files are one split, "train". A warning tells of pictures beside them.
    """
    tables = _tables(files)
    if not tables:
        return None
    pictures = _pictures(files)
    if pictures:
        logger.warning(f"{folder}: {_counted(pictures)} skipped: {suffixes(pictures)} (beside Parquet files).")
    return _by_split(folder, tables, _split_in_name)


def skipped_by_type(folder: Path) -> dict[str, int]:
    """How many files of a folder no picture is read from, by their endings."""
    files = list_files(folder)
    read = set(_tables(files) or _pictures(files))
    return dict(Counter(_suffix(file) for file in files if file not in read).most_common())


def suffixes(files: Iterable[Path]) -> str:
    """The endings of files, each once."""
    return ", ".join(sorted({_suffix(file) for file in files}))


def _suffix(file: Path) -> str:
    return file.suffix.lower() or "without an ending"


def _counted(files: Collection[Path]) -> str:
    return "1 file" if len(files) == 1 else f"{len(files)} files"


def _tables(files: list[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() == ".parquet" and file.name != "metadata.parquet"]


def _pictures(files: list[Path]) -> list[Path]:
    known = picture_suffixes()
    return [file for file in files if file.suffix.lower() in known]


def _by_split(folder: Path, files: list[Path], split_of: Callable[[Path], str | None]) -> dict[str, list[str]]:
    splits = [split_of(file) for file in files]
    if None in splits:
        named = sorted({split for split in splits if split})
        if named:
            outside = files[splits.index(None)]
            logger.warning(
                f"{folder}: {outside} belongs to no split, so all files are the split 'train', those of {', '.join(named)} too: "
                "move every file into a split to keep them."
            )
        splits = ["train"] * len(files)
    order = [*SPLITS, *sorted(set(splits) - SPLITS.keys())]
    found = {split: [str(folder / f) for f, s in zip(files, splits, strict=True) if s == split] for split in order}
    return {split: paths for split, paths in found.items() if paths}


def _split_of_top_folder(file: Path) -> str | None:
    return _SPLIT_OF.get(file.parts[0].lower()) if len(file.parts) > 1 else None


def _split_in_name(file: Path) -> str | None:
    sharded = re.match(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}", file.name)
    if sharded:  # as `datasets` writes them: any name is that of a split
        return _SPLIT_OF.get(sharded[1].lower(), sharded[1])
    words = (word for part in reversed(file.parts) for word in re.split(r"[^a-z]+", part.lower()))
    return next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), None)
