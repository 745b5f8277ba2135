"""Texts out of a user's files: JSONL, Parquet, plain text.

Knows files; does not know tokens or filters. Strict where datatrove's readers continue with a
warning: a damaged line is an error that names it, because a corpus that silently lost documents
trains another model than the intended one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ossia.errors import DataError

Kind = Literal["auto", "jsonl", "parquet", "text"]
ENDINGS = {
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"),
    "parquet": (".parquet",),
    "text": (".txt", ".txt.gz", ".md"),
}

# bytes of a plain text, which is one document and is several times in memory
LONGEST_TEXT = 1 << 28


def files_in(source: Path, kind: Kind = "auto") -> list[Path]:
    """The files of `kind` under a folder, sorted, or the one file. Raises `DataError` if there are
    none.
    """
    endings = [e for name, its in ENDINGS.items() if kind in ("auto", name) for e in its]
    if not source.exists():
        raise DataError(f"{source} does not exist: give a folder with texts, or one file")
    found = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    found = [path for path in found if path.name.endswith(tuple(endings))]
    if not found:
        raise DataError(
            f"no file in {source} ends with one of {', '.join(endings)}: give another folder or "
            "kind"
        )
    return found


def texts_in(path: Path, text_key: str = "text") -> Iterator[str]:
    """The texts of one file, by its ending: a line or row each, or all of a plain text. They may be
    empty.

    Raises `DataError` naming the line or column that is damaged or missing.
    """
    try:
        if path.name.endswith(ENDINGS["parquet"]):
            texts = _parquet(path, text_key)
        elif path.name.endswith(ENDINGS["jsonl"]):
            texts = _jsonl(path, text_key)
        else:
            texts = _plain(path)
        for text in texts:
            yield _without_surrogates(text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}): convert it, or leave it out") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _jsonl(path: Path, text_key: str) -> Iterator[str]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number} is not JSON ({error}): mend or remove it"
                ) from error
            text = data.get(text_key) if isinstance(data, dict) else None
            if not isinstance(text, str):
                keys = ", ".join(data) if isinstance(data, dict) else "no object"
                raise DataError(
                    f"{path}, line {number} has no text under {text_key!r} (it has: {keys}); set "
                    "text_key"
                )
            yield text


def _parquet(path: Path, text_key: str) -> Iterator[str]:
    try:
        import pyarrow as arrow  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError("reading Parquet needs pyarrow: pip install 'ossia[train]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            if text_key not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names)
                raise DataError(
                    f"{path} has no column {text_key!r} (it has: {names}); set text_key"
                )
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[text_key]):
                for text in batch.column(0).to_pylist():
                    if not isinstance(text, str):
                        raise DataError(
                            f"{path}, row {row} has no text under {text_key!r}: mend or remove it"
                        )
                    yield text
                    row += 1
    except arrow.ArrowException as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}") from error


def _plain(path: Path) -> Iterator[str]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        data = file.read(LONGEST_TEXT + 1)
    if len(data) > LONGEST_TEXT:
        raise DataError(
            f"{path} would be one document of over {LONGEST_TEXT >> 20} MiB: split it, or make it "
            "JSONL"
        )
    yield data.decode("utf-8-sig")  # without a byte order mark, as JSON is read too


def _without_surrogates(text: str) -> str:
    """JSON can hold lone surrogates, which have no UTF-8: they become U+FFFD, as the tokenizer
    makes them.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
