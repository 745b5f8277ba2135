"""Rollouts on disk: a file a step, a line a sample, for people and for `ossia rollouts`.

    rollouts/000123.jsonl

Written before the update that the step makes, under a temporary name, and renamed. There are no
times in it, so that files of two runs compare byte for byte. Knows samples and files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ossia.errors import DataError
from ossia.files import replace_file
from ossia.tasks.environment import Ask
from ossia.tokenizer import Tokenizer
from ossia.train.rl.batches import Lesson
from ossia.train.rl.worth import Valued
from ossia.turn.record import Piece, Segment

FOLDER = "rollouts"
Line = dict[str, Any]


class _Piece(BaseModel):
    text: str
    sampled: bool
    tokens: list[int]
    logprobs: list[float] | None


class _Segment(BaseModel):
    prompt: str
    prompt_tokens: list[int]
    pieces: list[_Piece]


class _Counts(BaseModel):
    sampled: int
    analysis: int
    calls: int


class _Line(BaseModel):
    """What readers use of a line. There may be more."""

    step: int
    group: int
    index: int
    task: str
    arm: str
    effort: str
    segments: list[_Segment]
    analysis: str
    final: str
    reason: str
    reward: float | None
    graded: float | None
    correct: bool | None
    why: str
    advantage: float | None
    counts: _Counts


def line_of(step: int, ask: Ask, each: Valued, tokenizer: Tokenizer) -> Line:
    """A sample as an object. `segments` have the tokens as they were, inserted ones too."""
    sample = each.sample
    analysis = [m.text for m in sample.messages if m.channel == "analysis"]
    return {
        "step": step,
        "group": sample.group,
        "index": sample.index,
        "task": ask.task,
        "about": dict(ask.about),
        "arm": ask.arm,
        "effort": str(sample.effort),
        "version": sample.version,
        "seed": ask.seed,
        "segments": [_segment(segment, tokenizer) for segment in sample.segments],
        "analysis": "\n\n".join(analysis),
        "final": sample.outcome.final,
        "calls": [asdict(call) for call in sample.outcome.calls],
        "reason": sample.reason,
        "reward": each.reward,
        "graded": sample.reward.value,
        "parts": dict(sample.reward.parts),
        "correct": sample.reward.correct,
        "why": sample.reward.why,
        "advantage": each.advantage,
        "counts": asdict(sample.counts),
    }


def _segment(segment: Segment, tokenizer: Tokenizer) -> Line:
    pieces = []
    for piece in segment.pieces:
        pieces.append(
            {
                "text": tokenizer.decode(piece.ids),
                "sampled": piece.is_sampled,
                "tokens": list(piece.ids),
                "logprobs": None if piece.logprobs is None else list(piece.logprobs),
            }
        )
    return {
        "prompt": tokenizer.decode(segment.prompt),
        "prompt_tokens": list(segment.prompt),
        "pieces": pieces,
    }


def path_of(folder: Path, step: int) -> Path:
    return folder / FOLDER / f"{step:06d}.jsonl"


def write(folder: Path, step: int, lines: Sequence[Line]) -> Path:
    """`folder/rollouts/STEP.jsonl`, whole or not at all. Raises `OSError`."""
    path = path_of(folder, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    replace_file(path, text, sole_writer=True)
    return path


def files_in(folder: Path) -> list[Path]:
    """Of a run's folder, of its `train` or of `rollouts` itself, in the order of the steps. Raises
    `DataError` if there are none.
    """
    for place in (folder, folder / FOLDER, folder / "train" / FOLDER):
        found = sorted(place.glob("[0-9]*.jsonl")) if place.is_dir() else []
        if found:
            return found
    if folder.is_file():
        return [folder]
    raise DataError(
        f"{folder} has no rollouts: give the --out of a run of `ossia train rl`, or a file of its "
        f"{FOLDER} folder"
    )


def read(paths: Iterable[Path]) -> Iterator[Line]:
    """Sample by sample. Raises `DataError` for a line that is not one."""
    for path in paths:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                yield _parsed(path, number, text)


def _parsed(path: Path, number: int, text: bytes) -> Line:
    try:
        _Line.model_validate_json(text, strict=True)
        line: Line = json.loads(text)
    except ValidationError as error:
        why = _first(error)
        raise DataError(f"{path}:{number}: not a sample of `ossia train rl`: {why}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not JSON ({error})") from error
    return line


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, found["loc"]))
    if found["type"] == "missing":
        return f"it has no {place}"
    return f"{place}: {found['msg']}" if place else found["msg"]


def lessons(path: Path) -> list[list[Lesson]]:
    """What the samples of a step teach, by group, as they were when they were drawn."""
    groups: dict[int, list[Lesson]] = {}
    for line in read([path]):
        group = groups.setdefault(line["group"], [])
        if line["advantage"] is not None:
            segments = tuple(map(_segment_of, line["segments"]))
            group.append(Lesson(segments, line["advantage"]))
    return list(groups.values())


def _segment_of(found: Mapping[str, Any]) -> Segment:
    pieces = []
    for piece in found["pieces"]:
        logprobs = piece["logprobs"]
        pieces.append(Piece(tuple(piece["tokens"]), None if logprobs is None else tuple(logprobs)))
    return Segment(tuple(found["prompt_tokens"]), tuple(pieces))


def sampled_text(line: Mapping[str, Any]) -> str:
    """All that came after the prompt, inserted text too."""
    pieces = [piece for segment in line["segments"] for piece in segment["pieces"]]
    return "".join(piece["text"] for piece in pieces)
