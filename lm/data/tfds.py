"""TensorFlow Datasets without TensorFlow: `tfds:NAME[/config][:version][:split]`, array_record.

Nothing is downloaded here: preparing a dataset can take hours and hundreds of gigabytes, so it is
a command of its own, which the error for a missing dataset spells out.
"""

import collections
import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator

from lm.base.errors import UserError, nearest
from lm.data.config import Config
from lm.data.text import Document

_AT_A_TIME = 256  # records


def documents(config: Config, dropped: collections.Counter) -> Iterator[Document]:
    """Yields the records of the split in stored order; the default split is 'train'."""
    builder, split, field = *_open(config), config.text_field
    try:
        source = builder.as_data_source(split)
    except (ValueError, KeyError, AssertionError):
        raise UserError(f"dataset '{config.corpus}' has no split '{split}'"
                        f"{nearest(split, builder.info.splits)}") from None
    for start in range(0, len(source), _AT_A_TIME):
        records = source.__getitems__(list(range(start, min(start + _AT_A_TIME, len(source)))))
        for number, record in enumerate(records, start):
            if text := _text(record[field], f"{config.corpus} record {number}"):
                yield Document(f"{config.corpus}:{number}", text)


def fingerprint(config: Config):
    """Returns what tells this dataset from another: its name, version, split and files."""
    builder, split = _open(config)
    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns)
                   for p in pathlib.Path(builder.data_dir).iterdir())
    return builder.info.full_name, split, config.text_field, files


def _open(config):
    """Returns (builder, split) of a dataset that is prepared, readable and has the text field."""
    name, split = _parse(config.corpus)
    with _quiet():
        builder = _builder(name)
        prepared = builder.is_prepared()
    cure = (f'python -c "import tensorflow_datasets as t, tensorflow_datasets.text; '
            f"t.builder('{name}', file_format='array_record').download_and_prepare()\"")
    if not prepared:
        raise UserError(f"dataset '{name}' is not prepared in {builder.data_dir}; with network, "
                        f"once: {cure}; prepared elsewhere: set TFDS_DATA_DIR")
    stored = builder.info.file_format
    if stored is None or stored.value != "array_record":
        raise UserError(f"dataset '{name}' is stored as {stored and stored.value}, which needs "
                        f"TensorFlow; prepare it once more as array_record: {cure}")
    features = builder.info.features
    if config.text_field not in features:
        raise UserError(f"dataset '{name}' has no field '{config.text_field}'"
                        f"{nearest(config.text_field, features)}; set text_field")
    return builder, split


def _parse(corpus):
    match = re.fullmatch(r"tfds:([\w/.+-]+(?::\d[\d.*]*)?)(?::([a-zA-Z_].*))?", corpus)
    if not match:
        raise UserError(f"corpus '{corpus}' is not of the form tfds:NAME[/config][:split]")
    return match[1], match[2] or "train"


def _builder(name):
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(f"corpus 'tfds:{name}' needs a package: pip install tensorflow-datasets "
                        "array-record") from None
    # tfds reads this variable when it is imported; the one of this moment counts.
    place = os.environ.get("TFDS_DATA_DIR") or None
    try:
        try:
            return tfds.builder(name, data_dir=place)
        except tfds.core.DatasetNotFoundError:
            import tensorflow_datasets.text  # noqa: F401  c4, wikipedia: registered by import only
            return tfds.builder(name, data_dir=place)
    except tfds.core.DatasetNotFoundError:
        names = tfds.core.registered.list_imported_builders()
        names += os.listdir(pathlib.Path(tfds.__file__).parent / "datasets")
        raise UserError(f"unknown dataset '{name}'{nearest(name.split('/')[0], names)}") from None
    except (ValueError, KeyError, AssertionError) as error:  # a config or version it has not
        raise UserError(f"dataset '{name}': {str(error).strip().splitlines()[0]}") from None


def _text(value, where):
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise UserError(f"{where}: the field is a {type(value).__name__}, not text; set text_field")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UserError(f"{where} is not UTF-8 text") from None


@contextlib.contextmanager
def _quiet():
    """Keeps tfds from warning about a folder that the error to come names anyway."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
