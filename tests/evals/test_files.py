"""Rows of files: the same from CSV, JSON, JSON lines and Parquet; what is wrong is named."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from ossia.errors import DataError
from ossia.evals.files import read_rows

ROWS = [
    {"question": "What is 2 + 3?\nSay, please.", "answer": "5"},
    {"question": 'What is "x", if x = 1, and so on?', "answer": "1"},
]


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name, text in {
        "a.csv": as_csv(ROWS),
        "b.csv": "\ufeff" + as_csv(ROWS),
        "c.tsv": as_csv(ROWS, "\t"),
        "d.jsonl": lines,
        "e.jsonl": "\ufeff" + lines.replace("\n", "\r\n"),
        "f.json": json.dumps(ROWS),
        "g.json": json.dumps({"rows": [{"row": row} for row in ROWS]}),
        "h.json": lines,
        "i.txt": lines,
    }.items():
        rows = read_rows(write(tmp_path / name, text))
        assert [dict(row.values) for row in rows] == ROWS, name
    packed = tmp_path / "j.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.encode()))
    assert [dict(row.values) for row in read_rows(packed)] == ROWS


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert [dict(row.values) for row in read_rows(path)] == ROWS
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged Parquet"):
        read_rows(path)


def test_columns_in_any_order_and_spelling(tmp_path: Path) -> None:
    (row,) = read_rows(
        write(tmp_path / "a.csv", " Answer ,Record ID,Incorrect Answer 1\r\n5,r1,x\r\n")
    )
    assert row.need("answer") == "5" and row.need("record_id") == "r1"
    assert row.need("problem", "incorrect_answer_1") == "x"
    assert row.get("image") is None and not row.has("image")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "question,answer\n1,2\n3\n4,5,6\n", "line 3 has 1 fields, not 2; line 4 has 3"),
        ("a.csv", 'question,answer\n"1,2\n', "line 2: unexpected end of data"),
        ("a.csv", "question,question\n1,2\n", "two columns have the same name"),
        ("a.csv", "question,answer\n", "has no rows"),
        ("a.csv", "", "has no rows"),
        ("a.jsonl", '{"a": 1}\n{"a": \n[1]\n', "line 2 is not JSON.*; line 3 is not a JSON object"),
        ("a.json", '{"rows": [1]}', "row 1 is not a JSON object"),
        ("a.json", "[", "is not JSON"),
        ("a.jsonl", "{" * 100_000, "line 1 is not JSON"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_rows(write(tmp_path / name, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_rows(tmp_path / "none.csv")
    latin = tmp_path / "latin.csv"
    latin.write_bytes("question\ncafé\n".encode("latin1"))
    with pytest.raises(DataError, match="not UTF-8 text: byte 12"):
        read_rows(latin)
    broken = tmp_path / "a.jsonl.gz"
    broken.write_bytes(gzip.compress(b"{}")[:-4])
    with pytest.raises(DataError, match="damaged gzip"):
        read_rows(broken)
    data = bytearray(gzip.compress(b"{}" * 100))
    data[10] ^= 0xFF  # in what was compressed
    broken.write_bytes(data)
    with pytest.raises(DataError, match="damaged gzip"):
        read_rows(broken)


def test_missing_and_empty_columns(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path / "a.jsonl", '{"id": 1, "problem": " ", "answer": [1]}'))
    with pytest.raises(DataError, match=r"line 1: there is no column 'question'; there are id"):
        row.need("question")
    with pytest.raises(DataError, match="'problem' is empty"):
        row.need("question", "problem")
    with pytest.raises(DataError, match="'answer' must be text, found list"):
        row.text("answer")


def test_columns_splits_and_what_spreadsheets_write(tmp_path: Path) -> None:
    wanted = [{"question": "a", "answer": "3"}, {"question": "b", "answer": "4"}]
    by_column = {name: [row[name] for row in wanted] for name in wanted[0]}
    by_number = {name: dict(enumerate(column)) for name, column in by_column.items()}
    for name, value in {"c": by_column, "n": by_number, "s": {"train": wanted}}.items():
        path = write(tmp_path / f"{name}.json", json.dumps(value))
        assert [row.values for row in read_rows(path)] == wanted
    path = write(tmp_path / "semicolons.csv", "question;answer\r\na;3\r\nb;4\r\n")
    assert [row.values for row in read_rows(path)] == wanted
    path = tmp_path / "wide.csv"
    path.write_bytes("question,answer\na,3\nb,4\n".encode("utf-16"))
    assert [row.values for row in read_rows(path)] == wanted
