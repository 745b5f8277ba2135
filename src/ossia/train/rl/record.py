"""Rollouts on disk: a file a step, a line a sample, for people and for `ossia rollouts`.

    rollouts/000123.jsonl

Written before the update that the step makes, under a temporary name, and renamed. There are no
times in it, so that files of two runs compare byte for byte. Knows samples and files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ossia.errors import DataError
from ossia.files import replace_file
from ossia.harmony import Effort
from ossia.tasks.environment import Ask, Counts, Outcome, Reward
from ossia.tasks.problem import Call
from ossia.tokenizer import Tokenizer
from ossia.train.rl.batches import Lesson
from ossia.train.rl.worth import Valued
from ossia.turn.record import Piece, Segment
from ossia.turn.rollout import Sample

FOLDER = "rollouts"
Line = dict[str, Any]
Groups = Mapping[int, Sequence[Sample]]


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


@dataclass(frozen=True)
class By:
    """Whose samples a file has: `run` tells settings apart that ask or grade otherwise, `weights`
    is the checksum of those that sampled.
    """

    run: str
    weights: str


def line_of(step: int, ask: Ask, each: Valued, tokenizer: Tokenizer, by: By) -> Line:
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
        "run": by.run,
        "weights": by.weights,
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
        found = {
            "text": tokenizer.decode(piece.ids),
            "sampled": piece.is_sampled,
            "tokens": list(piece.ids),
            "logprobs": None if piece.logprobs is None else list(piece.logprobs),
        }
        if piece.experts is not None:
            found["experts"] = piece.experts
        pieces.append(found)
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
        pieces.append(
            Piece(
                tuple(piece["tokens"]),
                None if logprobs is None else tuple(logprobs),
                _experts_of(piece.get("experts")),
            )
        )
    return Segment(tuple(found["prompt_tokens"]), tuple(pieces))


def _experts_of(found: Any) -> Any:
    """Tuples of tuples of ids: of each token, in each layer."""
    return None if found is None else tuple(tuple(map(tuple, layers)) for layers in found)


def samples(path: Path, by: By) -> Groups:
    """The samples that a file has, by group; none if there is no such file, or if it is of another
    run or of other weights. Raises `DataError` for one that is damaged.

    A step that is done again after an interruption takes them as they are: nothing is asked again,
    neither the model, nor tools, nor whoever grades, who may say something else now, or nothing.
    """
    found: dict[int, list[Sample]] = {}
    for line in read([path]) if path.exists() else ():
        if (line.get("run"), line.get("weights")) != (by.run, by.weights):
            return {}
        try:
            sample = _sample_of(line)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: group {line['group']}, sample {line['index']} is damaged ({error}); "
                "remove the file, and the step is sampled again"
            ) from error
        found.setdefault(sample.group, []).append(sample)
    return found


def _sample_of(line: Line) -> Sample:
    """Without its messages: the record has what was said."""
    calls = tuple(Call(**call) for call in line["calls"])
    outcome = Outcome(line["final"], calls, line["reason"], Counts(**line["counts"]))
    reward = Reward(line["graded"], line["parts"], line["correct"], line["why"])
    segments = tuple(map(_segment_of, line["segments"]))
    effort = Effort(line["effort"])
    return Sample(line["group"], line["index"], line["version"], effort, segments, outcome, reward)


def told_texts(line: Mapping[str, Any]) -> Iterator[str]:
    """What was not sampled: prompts, results of tools, what users said later."""
    for segment in line["segments"]:
        yield segment["prompt"]
        yield from (piece["text"] for piece in segment["pieces"] if not piece["sampled"])


def sampled_text(line: Mapping[str, Any]) -> str:
    """All that came after the prompt, inserted text too."""
    pieces = [piece for segment in line["segments"] for piece in segment["pieces"]]
    return "".join(piece["text"] for piece in pieces)
