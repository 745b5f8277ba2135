"""A run keeps what comes, goes on whatever moment it was ended at, and ends in one file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import warm_python

from ossia.errors import DataError, RequestError
from ossia.evals.questions import Answered, Question, Trial, trials
from ossia.evals.report import compared, failures, mean_tokens, not_read, table
from ossia.evals.results import Header, Record, Results, read_results
from ossia.evals.run import run
from ossia.evals.suites import SUITES, read
from ossia.harmony import Effort

HEADER = Header("aime", "nano", {"temperature": 1.0, "seed": 0}, {})
EFFORTS = (Effort.LOW, Effort.HIGH)


def made(folder: Path, count: int = 3) -> list[Question]:
    path = folder / "aime.jsonl"
    rows = [{"id": n, "problem": f"{n} + 1?", "answer": n + 1} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read(SUITES["aime"], [path])[0]


def answered(trial: Trial) -> Answered:
    """As a model would: a function of the question and the seed."""
    number = int(trial.question.gold) + trial.seed % 2
    return Answered(f"\\boxed{{{number}}}", tokens=trial.seed % 90 + 10, prompt=20)


def backwards(asked: Sequence[Trial]) -> Iterator[tuple[int, Answered]]:
    for index in reversed(range(len(asked))):
        yield index, answered(asked[index])


def all_trials(folder: Path) -> list[Trial]:
    return list(trials(made(folder), EFFORTS, 2, seed=0))


def whole(folder: Path, path: Path) -> bytes:
    with Results(HEADER, path) as results:
        run(all_trials(folder), results, backwards)
    return path.read_bytes()


def test_the_file_is_in_order_whatever_order_answers_came_in(tmp_path: Path) -> None:
    data = whole(tmp_path, tmp_path / "out.jsonl")
    header, records = read_results(tmp_path / "out.jsonl")
    assert header == HEADER and len(records) == 12
    keys = [(record.effort, record.question, record.repeat) for record in records]
    assert keys == [(e, q, r) for e in ("low", "high") for q in "012" for r in (0, 1)]
    assert all(record.kind in ("right", "wrong") for record in records)
    assert whole(tmp_path, tmp_path / "out.jsonl") == data, "nothing is asked again"


def test_cut_at_every_byte_it_ends_the_same(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    data = whole(tmp_path, path)
    for size in range(0, len(data), 37):
        path.write_bytes(data[:size])
        assert whole(tmp_path, path) == data


def test_answers_that_are_there_are_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    every = all_trials(tmp_path)
    with Results(HEADER, path) as results:
        for index, one in list(backwards(every))[:5]:
            results.add(Record.of(every[index], one, every[index].question.mark(one)))
    asked: list[Trial] = []

    def answer(missing: Sequence[Trial]) -> Iterator[tuple[int, Answered]]:
        asked.extend(missing)
        return backwards(missing)

    told: list[tuple[int, int]] = []
    with Results(HEADER, path) as results:
        run(every, results, answer, lambda done, total: told.append((done, total)))
    assert len(asked) == 7 and told[0] == (5, 12) and told[-1] == (12, 12)


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_run
from ossia.evals.results import Results
from ossia.evals.run import run
folder = Path(sys.argv[1])

def slowly(asked):
    for one in test_run.backwards(asked):
        yield one
        print("answered", flush=True)
        sys.stdin.readline()

with Results(test_run.HEADER, folder / "out.jsonl") as results:
    run(test_run.all_trials(folder), results, slowly)
"""


def test_killed_it_goes_on(tmp_path: Path) -> None:
    """kill -9 after every single answer: twelve runs make one file."""
    data = whole(tmp_path, tmp_path / "whole.jsonl")
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, *map(str, (tmp_path, here, here.parent))]
    for _ in range(3):
        pipe = subprocess.PIPE
        with warm_python.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdout is not None and process.stdin is not None
            for _ in range(2):
                assert process.stdout.readline() == "answered\n"
                process.stdin.write("\n")
                process.stdin.flush()
            os.kill(process.pid, signal.SIGKILL)
    _, records = read_results(tmp_path / "out.jsonl")
    assert 3 <= len(records) < 12
    assert whole(tmp_path, tmp_path / "out.jsonl") == data


def test_what_failed_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    def failing(asked: Sequence[Trial]) -> Iterator[tuple[int, Answered]]:
        for index, one in backwards(asked):
            yield index, Answered(error="no server") if index % 3 == 0 else one

    every = all_trials(tmp_path)
    with Results(HEADER, path) as results:
        run(every, results, failing)
        assert "4 failed: no server" in not_read(results.of(every))
    assert whole(tmp_path, path) == whole(tmp_path, tmp_path / "other.jsonl")


def test_an_error_keeps_what_has_been_answered(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    def breaking(asked: Sequence[Trial]) -> Iterator[tuple[int, Answered]]:
        yield from list(backwards(asked))[:6]
        raise RequestError("the engine is gone")

    with pytest.raises(RequestError, match="gone"), Results(HEADER, path) as results:
        run(all_trials(tmp_path), results, breaking)
    data = path.read_bytes()
    assert data.endswith(b"\n") and 2 <= data.count(b"\n") <= 7
    assert whole(tmp_path, path) == whole(tmp_path, tmp_path / "other.jsonl")


def test_more_efforts_and_repeats_may_be_added(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    questions = made(tmp_path)
    for efforts, repeats in (((Effort.LOW,), 1), (EFFORTS, 2)):
        with Results(HEADER, path) as results:
            run(list(trials(questions, efforts, repeats, 0)), results, backwards)
    assert path.read_bytes() == whole(tmp_path, tmp_path / "other.jsonl")


def test_files_of_other_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole(tmp_path, path)
    other = Header("aime", "nano", {"temperature": 0.0, "seed": 0}, {})
    with pytest.raises(RequestError, match=r"temperature 1.0, and now it is 0.0"):
        Results(other, path).__enter__()
    with pytest.raises(RequestError, match="model 'nano', and now it is 'big'"):
        Results(Header("aime", "big", HEADER.settings, {}), path).__enter__()
    changed = [Question(q.id, q.group, q.messages, "9", q.grade, q.problem) for q in made(tmp_path)]
    with pytest.raises(RequestError, match="questions have changed"), Results(HEADER, path) as r:
        run(list(trials(changed, EFFORTS, 1, 0)), r, backwards)
    for text, why in (("question,answer\n", "not a file of answers"), ("x", "not a file")):
        path.write_text(text)
        with pytest.raises(DataError, match=why):
            Results(HEADER, path).__enter__()
    text = "question,answer\nwhat,1\nand then"
    path.write_text(text)
    with pytest.raises(DataError, match="not a file"):
        Results(HEADER, path).__enter__()
    assert path.read_text() == text, "somebody else's file stays whole"
    path.write_text(HEADER.line + "{}\n")
    with pytest.raises(DataError, match="damaged"):
        Results(HEADER, path).__enter__()
    with pytest.raises(RequestError, match="cannot write"):
        Results(HEADER, tmp_path / "none" / "out.jsonl").__enter__()


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Results(HEADER, path) as results, open("/dev/full", "wb", buffering=0) as full:
        assert results._file is not None
        results._file.close()
        results._file = full
        with pytest.raises(RequestError, match=r"cannot write .*out.jsonl: No space .*make room"):
            run(all_trials(tmp_path), results, backwards)


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Results(HEADER, path), pytest.raises(RequestError, match="by another run"):
        Results(HEADER, path).__enter__()


def test_marks_are_made_beside_answering(tmp_path: Path) -> None:
    """A grader that waits does not keep the next answer from coming."""
    gate = threading.Event()
    (question,) = made(tmp_path, 1)

    def grade(one: Answered):  # type: ignore[no-untyped-def]
        assert gate.wait(10)
        return question.grade(one)

    slow = Question("slow", "", question.messages, question.gold, grade)

    def answer(asked: Sequence[Trial]) -> Iterator[tuple[int, Answered]]:
        for index, trial in enumerate(asked):
            yield index, answered(trial)
        gate.set()

    every = list(trials([slow, question], (Effort.LOW,), 2, 0))
    with Results(HEADER) as results:
        run(every, results, answer)
        assert len(results.of(every)) == 4


def test_seeds_are_of_the_trial_alone(tmp_path: Path) -> None:
    every = all_trials(tmp_path)
    assert len({trial.seed for trial in every}) == 12
    assert {t.key: t.seed for t in every} == {t.key: t.seed for t in all_trials(tmp_path)}
    other = list(trials(made(tmp_path), EFFORTS, 2, seed=1))
    assert not {trial.seed for trial in other} & {trial.seed for trial in every}
    more = list(trials(made(tmp_path), EFFORTS, 4, seed=0))
    seeds = {trial.key: trial.seed for trial in more}
    assert all(seeds[trial.key] == trial.seed for trial in every)


def test_cut_answers_are_not_graded(tmp_path: Path) -> None:
    question = made(tmp_path)[1]
    cut = question.mark(Answered("\\boxed{2}", reason="length"))
    assert cut.kind == "cut" and cut.score == 0.0
    assert question.mark(Answered("\\boxed{2}", error="x")).kind == "failed"


def test_reports(tmp_path: Path) -> None:
    whole(tmp_path, tmp_path / "out.jsonl")
    _, records = read_results(tmp_path / "out.jsonl")
    lines = table(records).split("\n")
    assert len({len(line) for line in lines}) == 1 and len(lines) == 4
    assert "pass@2" in lines[0] and "maj@2" in lines[0] and lines[2].startswith("| low")
    assert len(failures(records, 2).split("\n")) == 2
    text = compared(("a", "b"), records, records)
    assert "low: +0.0 points (+0.0 to +0.0, 3 questions); 0 is inside" in text
    assert "share no question" in compared(("a", "b"), records, [])


def test_half_characters_end_no_run(tmp_path: Path) -> None:
    def answer(missing: Sequence[Trial]) -> Iterator[tuple[int, Answered]]:
        for index in range(len(missing)):
            yield index, Answered("Answer: 1 \ud800")

    for _ in range(2):
        with Results(HEADER, tmp_path / "out.jsonl") as results:
            run(all_trials(tmp_path), results, answer)
    assert read_results(tmp_path / "out.jsonl")[1][0].final == "Answer: 1 \ufffd"


def test_repeats_that_differ_by_effort(tmp_path: Path) -> None:
    whole(tmp_path, tmp_path / "out.jsonl")
    _, records = read_results(tmp_path / "out.jsonl")
    kept = [record for record in records if record.effort == "high" or record.repeat == 0]
    low, high = table(kept).split("\n")[2:]
    assert [cell.strip() for cell in low.split("|")[-3:-1]] == ["-", "-"]
    assert all("%" in cell for cell in high.split("|")[-3:-1])


def test_failed_answers_have_no_length(tmp_path: Path) -> None:
    trial = all_trials(tmp_path)[0]
    done = Record.of(trial, Answered("1", tokens=40), trial.question.mark(Answered("1")))
    failed = Answered(error="gone")
    lost = Record.of(trial, failed, trial.question.mark(failed))
    assert mean_tokens([done, lost]) == 40 and mean_tokens([lost]) is None
