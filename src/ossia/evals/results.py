"""The file of a run: answers and their marks, one JSON object a line, written as they come.

The first line says how the answers were made; a run that would make others is refused. Whatever
moment a run was killed at, the next one goes on: a line that was cut is taken off, what is there is
not asked again, and what failed is. A run that ends puts the lines into the order of its questions,
so that the file is the same however often it was interrupted. It holds no times. Knows no suites
and no models.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ossia.errors import DataError, RequestError
from ossia.evals.answers import Kind, Mark
from ossia.evals.questions import Answered, Trial
from ossia.evals.texts import well_formed
from ossia.files import replace_file
from ossia.harmony import Effort

VERSION = 1
Key = tuple[str, str, int]  # question, effort, repeat


@dataclass(frozen=True)
class Header:
    """How all answers of a file were made. `settings`: of sampling, what the caller set. Efforts
    and repeats are not in it: more may be added.
    """

    suite: str
    model: str
    settings: Mapping[str, Any]
    left_out: Mapping[str, int]

    @property
    def line(self) -> str:
        return _line({"ossia_eval": VERSION, **asdict(self)})


@dataclass(frozen=True)
class Record:
    """One line. `reason`, `tokens`, `reasoning`, `prompt`: as in `Answered`; `answer`, `why`: as in
    `Mark`.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)
    question: str
    digest: str
    group: str
    effort: str
    repeat: int
    kind: Kind
    score: float
    answer: str
    why: str
    reason: str
    tokens: int
    reasoning: int
    prompt: int
    calls: tuple[Mapping[str, Any], ...]
    final: str

    @classmethod
    def of(cls, trial: Trial, answered: Answered, mark: Mark) -> Record:
        question = trial.question
        return cls(
            question.id,
            question.digest,
            question.group,
            str(trial.effort),
            trial.repeat,
            mark.kind,
            mark.score,
            mark.answer,
            mark.why,
            answered.reason,
            answered.tokens,
            answered.reasoning,
            answered.prompt,
            tuple(asdict(call) for call in answered.calls),
            answered.final,
        )

    @property
    def key(self) -> Key:
        return self.question, self.effort, self.repeat

    @property
    def mark(self) -> Mark:
        return Mark(self.kind, self.answer, self.score, self.why)

    @property
    def line(self) -> str:
        return _line(asdict(self))


HEADER = TypeAdapter(Header)
RECORD = TypeAdapter(Record)


class Results:
    """Of one run, in a file or in memory alone. Use it in a `with` statement: meanwhile no other
    run may write the file.
    """

    def __init__(self, header: Header, path: Path | None = None) -> None:
        self.header = header
        self.path = path
        self._records: dict[Key, Record] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Results:
        """Raises `RequestError` for a file of other answers, `DataError` for a damaged one."""
        if self.path is None:
            return self
        try:
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise RequestError(f"cannot write {self.path}: {error.strerror}", "out") from error
        try:
            self._lock()
            self._take_up()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def has(self, trial: Trial) -> bool:
        """Whether there is an answer that did not fail. Raises `RequestError` for the answer to
        another question of this name.
        """
        record = self._records.get(trial.key)
        if record is None:
            return False
        if record.digest != trial.question.digest:
            raise RequestError(
                f"{self.path}: question {record.question!r} is not the one that was answered "
                "there: the questions have changed; give another file with --out",
                "out",
            )
        return record.kind != "failed"

    def add(self, record: Record) -> None:
        self._records[record.key] = record
        if self._file is not None:
            self._write(record.line)

    def of(self, trials: Iterable[Trial]) -> list[Record]:
        """Those of these trials that there are."""
        keys = [trial.key for trial in trials]
        return [self._records[key] for key in keys if key in self._records]

    def finish(self, trials: Sequence[Trial]) -> None:
        """Put the file into order: these trials first, in theirs, then what else is there."""
        if self.path is None:
            return
        wanted = [record.key for record in self.of(trials)]
        known = set(wanted)
        others = sorted(key for key in self._records if key not in known)
        lines = [self._records[key].line for key in (*wanted, *others)]
        text = self.header.line + "".join(lines)
        with self._naming_the_file():
            if self.path.read_bytes() != text.encode():
                replace_file(self.path, text)

    def _write(self, line: str) -> None:
        """In one call: a reader sees all of a line or the beginning of it, never two mixed."""
        assert self._file is not None
        data = line.encode()
        with self._naming_the_file():
            while data:
                data = data[self._file.write(data) :]

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RequestError(
                f"cannot write {self.path}: {error.strerror}; make room and give the same command "
                "again: it goes on with the answers that are there",
                "out",
            ) from error

    def _lock(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RequestError(f"{self.path} is being written by another run", "out") from error

    def _take_up(self) -> None:
        assert self._file is not None and self.path is not None
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if not whole and not self.header.line.encode().startswith(data):
            raise DataError(f"{self.path} is not a file of answers; give another with --out", "out")
        if whole:  # nothing is taken off a file of somebody else's
            found, records = _parsed(self.path, data[:whole])
            _check_same(self.path, found, self.header)
            self._records = {record.key: record for record in records}
        if whole < len(data):
            os.truncate(self.path, whole)
        if not whole:
            self._write(self.header.line)


def read_results(path: Path) -> tuple[Header, list[Record]]:
    """Of a run that has ended or not. Raises `DataError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "results") from error
    header, records = _parsed(path, data[: data.rfind(b"\n") + 1])
    by_key = {record.key: record for record in records}  # the last try counts
    return header, list(by_key.values())


def _parsed(path: Path, data: bytes) -> tuple[Header, list[Record]]:
    lines = data.splitlines()
    return _header(path, lines[0] if lines else b""), list(_records(path, lines[1:]))


def _header(path: Path, line: bytes) -> Header:
    try:
        version = json.loads(line)["ossia_eval"]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise DataError(f"{path} is not a file of answers", "results") from error
    if version != VERSION:
        raise DataError(f"{path} is a file of answers of another version", "results")
    try:
        return HEADER.validate_json(line, strict=True)
    except ValidationError as error:
        raise DataError(f"{path}, line 1 is damaged: {_first(error)}", "results") from error


def _records(path: Path, lines: Sequence[bytes]) -> Iterator[Record]:
    for number, line in enumerate(lines, 2):
        try:
            record = RECORD.validate_json(line, strict=True)
            Effort(record.effort)
        except ValidationError as error:
            why = f"{path}, line {number} is damaged: {_first(error)}; remove that line"
            raise DataError(why, "results") from error
        except ValueError as error:
            why = f"{path}, line {number} is damaged: {error}; remove that line"
            raise DataError(why, "results") from error
        yield record


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, found["loc"]))
    return f"{place}: {found['msg']}" if place else found["msg"]


def _check_same(path: Path, found: Header, wanted: Header) -> None:
    """Raises `RequestError` if answers of `wanted` do not belong beside those of `found`."""
    pairs: list[tuple[str, Any, Any]] = [
        ("suite", found.suite, wanted.suite),
        ("model", found.model, wanted.model),
    ]
    for name in sorted({*found.settings, *wanted.settings}):
        pairs.append((name, found.settings.get(name), wanted.settings.get(name)))
    for name, there, now in pairs:
        if there != now:
            raise RequestError(
                f"{path} holds answers with {name} {there!r}, and now it is {now!r}; give another "
                "file with --out, or the same settings",
                "out",
            )


def _line(value: Mapping[str, Any]) -> str:
    return well_formed(json.dumps(value, ensure_ascii=False)) + "\n"
