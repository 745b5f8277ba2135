"""Files of training data: one JSON object a line, read so strictly that no part of it is lost.

Knows bytes and JSON; what a line means is `shapes.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ossia.errors import DataError, HarmonyError

PARQUET = b"PAR1"  # how such a file begins
ONE_A_LINE = "; the file must hold one JSON object a line (jq -c '.[]' FILE makes it so)"


def lines_of(paths: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """(place, text) of every line that is not blank. Raises `DataError` for a file that is none."""
    for path in paths:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if number == 1 and line.startswith(PARQUET):
                        raise DataError(
                            f"{path}: is a Parquet file; write it as JSON lines first, with "
                            f"pandas: read_parquet({path.name!r}).to_json({path.stem + '.jsonl'!r},"
                            ' orient="records", lines=True)'
                        )
                    if line.strip():
                        yield f"{path}:{number}", line
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def object_of(text: bytes) -> Mapping[str, Any]:
    """The object of one line. Raises `HarmonyError`."""
    try:
        data = from_json(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise HarmonyError(f"byte {error.start} of the line is not UTF-8") from error
    except HarmonyError as error:
        hint = ""
        if text.strip()[:1] in (b"[", b"{") and error.code == NOT_JSON:
            hint = ONE_A_LINE
        raise HarmonyError(f"{error}{hint}") from error
    if not isinstance(data, Mapping):
        hint = ONE_A_LINE if isinstance(data, list) else ""
        raise HarmonyError(f"expected an object, found a {type(data).__name__}{hint}")
    return data


NOT_JSON = "not_json"  # the code of a text that is no value at all


def from_json(text: str) -> Any:
    """The value that a text is. Raises `HarmonyError`, also where an object has a key twice: one of
    the two would be lost.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except HarmonyError:
        raise
    except (ValueError, RecursionError) as error:
        # ValueError: bad JSON, or a number of thousands of digits
        raise HarmonyError(f"not JSON: {error}", code=NOT_JSON) from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise HarmonyError(f"{twice}: stands twice in one object; leave one of them")
    return found
