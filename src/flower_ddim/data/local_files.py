"""Makes data sets of local files: their paths are taken literally, and their cache goes by what is in them."""

import hashlib
import os
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset
from datasets.table import table_cast


READ_WHOLE = 2**20  # bytes: of larger files, so many are read to tell their content


def dataset_of_pictures(
    classes: dict[str, str | None], cache_dir: str | None, streaming: bool
) -> Dataset | IterableDataset:
    """A data set of pictures in files of their own: a column "image", and "label" where there are classes.

    Args:
        classes: path and class of every picture.
    """
    features = Features({"image": Image()})
    if names := sorted({name for name in classes.values() if name is not None}):
        features["label"] = ClassLabel(names=names)
    lists = {"paths": list(classes), "labels": list(classes.values())}
    return _dataset(_picture_rows, lists, features, cache_dir, streaming)


def dataset_of_parquet(paths: list[str], cache_dir: str | None, streaming: bool) -> Dataset | IterableDataset:
    """A data set of the rows of Parquet files, with the columns and features of the first one.

    Raises:
        ArrowInvalid: if that is no Parquet file, or half of one.
        DatasetGenerationError: if another one is damaged, or has other columns.
    """
    with open(paths[0], "rb") as file:
        features = Features.from_arrow_schema(pq.read_schema(file))
    return _dataset(_parquet_rows, {"paths": paths}, features, cache_dir, streaming)


def _dataset(rows: Callable, lists: dict[str, list], features: Features, cache_dir: str | None, streaming: bool):
    """`lists`, of which a process that streams is given its share, are arguments of `rows`."""
    arguments = lists | {"features": features, "content": "" if streaming else content_key(lists["paths"])}
    if streaming:
        return IterableDataset.from_generator(rows, features, arguments)
    return Dataset.from_generator(rows, features, cache_dir, gen_kwargs=arguments)


def _picture_rows(paths: list[str], labels: list[str | None], features: Features, content: str) -> Iterator[dict]:
    """Rows of pictures. `content` only changes the key of the cache, here and below."""
    for path, label in zip(paths, labels, strict=True):
        yield {"image": path, "label": label} if "label" in features else {"image": path}


def _parquet_rows(paths: list[str], features: Features, content: str) -> Iterator[dict]:
    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    for path in paths:
        with open(path, "rb") as file:
            number = 0
            for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
                for row in table_cast(pa.Table.from_batches([batch]), features.arrow_schema).to_pylist():
                    number += 1
                    for column in columns:
                        _name_picture(row[column], path, number)
                    yield row


def _name_picture(encoded: dict | None, path: str, number: int):
    """Says of a picture in a Parquet file where it is; `datasets` would look for one with a name beside the program."""
    if encoded and encoded["bytes"] is not None:
        encoded["path"] = f"{path}, {encoded['path'] or f'row {number}'}"


def content_key(paths: list[str]) -> str:
    """A checksum of what files hold, for the key of a cache.

    The time of the last change does not tell: `cp -p` and `rsync -a` bring that of another file along. So files up to `READ_WHOLE`
    bytes are read whole, as most pictures are. To read larger ones whole would take minutes at every start of a large training:
    of these the size, the times, the beginning and the end count. Of the times one, `st_ctime_ns`, is when the operating system
    last changed anything of the file; `cp -p` and `rsync -a` cannot set it, so what they bring counts as another file.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(repr(_content(path)).encode())
    return digest.hexdigest()


def _content(path: str) -> tuple:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size <= READ_WHOLE:
                return (hashlib.sha256(file.read()).digest(),)
            beginning = file.read(READ_WHOLE // 2)
            file.seek(-READ_WHOLE // 2, os.SEEK_END)
            content = hashlib.sha256(beginning + file.read()).digest()
            return status.st_size, status.st_mtime_ns, status.st_ctime_ns, content
    except OSError as error:  # whoever decodes it names it
        return (error.errno,)
