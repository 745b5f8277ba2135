"""Rows of the user's files: CSV, JSON, JSON lines and Parquet, gzipped or not.

Columns are found by name, in any order, whatever their case and however their words are joined. A
line that cannot be read is named and stops the run: a score over half a file is nobody's score.
Knows no suites.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossia.errors import DataError
from ossia.evals.texts import well_formed

LONGEST_FIELD = 1 << 30  # characters of a CSV field: private tests are large
MOST_NAMED = 5  # bad lines in an error
GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LISTS = ("rows", "data", "examples", "questions")  # under which a JSON object may keep them


@dataclass(frozen=True)
class Row:
    """`where`: for errors, such as "aime.csv, line 3"."""

    where: str
    values: Mapping[str, Any]

    def has(self, *names: str) -> bool:
        return _found(self.values, names) is not None

    def get(self, *names: str) -> Any:
        """The value of the first of these columns that there is; None if there is none."""
        name = _found(self.values, names)
        return None if name is None else self.values[name]

    def need(self, *names: str) -> Any:
        """The same. Raises `DataError` if there is none, or if it is empty."""
        name = _found(self.values, names)
        if name is None:
            wanted = " or ".join(map(repr, names))
            there = ", ".join(map(str, self.values)) or "none"
            raise DataError(
                f"{self.where}: there is no column {wanted}; there are {there}", names[0]
            )
        value = self.values[name]
        if value is None or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{self.where}: {name!r} is empty", names[0])
        return value

    def text(self, *names: str) -> str:
        """A value that has to be text, or is a number to be read as text."""
        value = self.need(*names)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            kind = type(value).__name__
            raise DataError(f"{self.where}: {names[0]!r} must be text, found {kind}", names[0])
        return well_formed(str(value))


def read_rows(path: Path, unnamed: Sequence[str] = ()) -> list[Row]:
    """`unnamed`: the columns of a CSV file without a line of names, where that is a format too.
    Raises `DataError` for a file that is not there, not readable, or has no rows.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "file") from error
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is a damaged gzip file: {error}", "file") from error
    rows = list(_rows(path, data, unnamed))
    if not rows:
        raise DataError(f"{path} has no rows", "file")
    return rows


def _rows(path: Path, data: bytes, unnamed: Sequence[str]) -> Iterator[Row]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if data.startswith(PARQUET) or ".parquet" in suffixes:
        yield from _parquet(path, data)
        return
    try:
        text = data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: byte {error.start}; save it as UTF-8", "file"
        ) from error
    if ".csv" in suffixes or ".tsv" in suffixes:
        yield from _csv(path, text, unnamed)
    elif text.lstrip().startswith("[") or ".json" in suffixes:
        yield from _json(path, text)
    elif text.lstrip().startswith("{"):
        yield from _json_lines(path, text)
    else:
        yield from _csv(path, text, unnamed)


def _csv(path: Path, text: str, unnamed: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    delimiter = _delimiter(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    bad: list[str] = []
    try:
        first = next(reader, [])
        names = [name.strip() for name in first]
        if names and len(names) == len(unnamed) and unnamed[0] not in map(_folded, names):
            names = list(unnamed)
            where = f"{path}, line {reader.line_num}"
            yield Row(where, dict(zip(names, first, strict=True)))
        if len(set(names)) < len(names):
            raise DataError(f"{path}: two columns have the same name: {', '.join(names)}", "file")
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if len(cells) == len(names):
                yield Row(where, dict(zip(names, cells, strict=True)))
            elif any(cell.strip() for cell in cells):
                bad.append(f"line {reader.line_num} has {len(cells)} fields, not {len(names)}")
    except csv.Error as error:
        bad.append(f"line {reader.line_num}: {error}")
    _refuse(path, bad)


def _delimiter(path: Path, text: str) -> str:
    """A comma, unless there is none in the first line: some spreadsheets write `;`."""
    line = text.partition("\n")[0]
    if ".tsv" in path.name.lower():
        return "\t"
    return "," if "," in line else max(";\t", key=line.count)


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    bad: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.append(f"line {number} is not JSON: {error}")
            continue
        if isinstance(value, dict):
            yield Row(f"{path}, line {number}", value)
        else:
            bad.append(f"line {number} is not a JSON object")
    _refuse(path, bad)


def _json(path: Path, text: str) -> Iterator[Row]:
    """An array of objects, alone or in an object; an object of columns; or lines after all,
    whatever the file's name.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and "\n" in text.strip():
            yield from _json_lines(path, text)
            return
        raise DataError(f"{path} is not JSON: {error}", "file") from error
    if isinstance(value, dict):
        lists = [value[name] for name in _LISTS if isinstance(value.get(name), list)]
        value = lists[0] if lists else _by_columns(value)
    bad: list[str] = []
    for number, one in enumerate(value, 1):
        if isinstance(one, dict):
            inner = one.get("row")  # as the dataset viewer of a hub writes them
            yield Row(f"{path}, row {number}", inner if isinstance(inner, dict) else one)
        else:
            bad.append(f"row {number} is not a JSON object")
    _refuse(path, bad)


def _by_columns(value: Mapping[str, Any]) -> list[Any]:
    """The rows of {"question": [...], "answer": [...]}, or of {"question": {"0": ...}, ...} as
    pandas writes it; of anything else one row, which is the object itself.
    """
    columns = list(value.values())
    if len(columns) == 1 and isinstance(columns[0], list):
        return columns[0]  # the name is a split's
    if all(isinstance(column, dict) for column in columns):
        columns = [list(column.values()) for column in columns]
    if not all(isinstance(column, list) for column in columns):
        return [value]
    lengths = set(map(len, columns))
    if len(lengths) != 1:
        return [value]
    rows = []
    for cells in zip(*columns, strict=True):
        rows.append(dict(zip(value, cells, strict=True)))
    return rows


def _parquet(path: Path, data: bytes) -> Iterator[Row]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            f"{path} is a Parquet file, which needs pyarrow: pip install 'ossia[train]', or "
            "convert it to JSON lines",
            "file",
        ) from error
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is a damaged Parquet file: {error}", "file") from error
    for number, values in enumerate(table.to_pylist(), 1):
        yield Row(f"{path}, row {number}", values)


def _refuse(path: Path, bad: Sequence[str]) -> None:
    if not bad:
        return
    named = "; ".join(bad[:MOST_NAMED])
    more = f"; and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
    raise DataError(f"{path}: {named}{more}. Mend or remove these lines", "file")


def _found(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The column that is meant: of exactly this name, else of one that is spelled alike."""
    for name in names:
        if name in values:
            return name
    alike = {_folded(own): own for own in values}
    for name in names:
        if _folded(name) in alike:
            return alike[_folded(name)]
    return None


def _folded(name: str) -> str:
    return "".join(char for char in str(name).casefold() if char.isalnum())
