"""Every format from a file that is made here: its spellings, its order of columns, its grading."""

from __future__ import annotations

import base64
import collections
import json
import pickle
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ossia.errors import DataError
from ossia.evals import health
from ossia.evals.answers import Mark
from ossia.evals.programs import harness
from ossia.evals.programs import packed as packed_tests
from ossia.evals.programs.contests import same_output
from ossia.evals.programs.functions import Sandboxed, code_of, same
from ossia.evals.questions import Answered, Question
from ossia.evals.suites import SUITES, Graders, read
from ossia.harmony import Effort
from ossia.tools.sandbox import Finished


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(
    suite: str, path: Path, rows: Sequence[Mapping[str, Any]], graders: Graders | None = None
) -> list[Question]:
    return read(SUITES[suite], [lines(path, rows)], graders)[0]


def kind(question: Question, final: str) -> str:
    return question.mark(Answered(final)).kind


def text_of(question: Question) -> str:
    return str(question.messages[-1].content)


def test_aime_in_three_spellings(tmp_path: Path) -> None:
    spellings = [
        {"question": "Find m+n.", "answer": "025"},
        {"answer": 25, "problem": "Find m+n.", "id": 7},
        {"ID": "2024-I-3", "Solution": "It is 25.", "Answer": 25, "Problem": "Find m+n."},
    ]
    for number, row in enumerate(spellings):
        (question,) = asked("aime", tmp_path / f"{number}.jsonl", [row])
        assert "Find m+n." in text_of(question) and "It is 25" not in text_of(question)
        assert kind(question, "\\boxed{25}") == "right" and kind(question, "24") == "wrong"
        assert question.id == ((row.get("id") and "7") or row.get("ID") or question.digest)
    with pytest.raises(DataError, match="no column 'answer'; there are question"):
        asked("aime", tmp_path / "x.jsonl", [{"question": "?"}])
    with pytest.raises(DataError, match="the answer 'x' is not a number"):
        asked("aime", tmp_path / "x.jsonl", [{"question": "?", "answer": "x"}])


def test_ids_are_the_questions_own(tmp_path: Path) -> None:
    """Of two files that count from 1, and of questions without an id, even the same ones."""
    row = {"problem": "1 + 1", "answer": 2}
    one = lines(tmp_path / "I.jsonl", [{**row, "id": 1}])
    two = lines(tmp_path / "II.jsonl", [{**row, "id": 1}])
    both, _ = read(SUITES["aime"], [one, two])
    assert [question.id for question in both] == ["I/1", "II/1"]
    same = asked("aime", tmp_path / "same.jsonl", [row, row])
    assert same[1].id == f"{same[0].id}#2"
    with pytest.raises(DataError, match=r"line 2: the id '1' is also that of .*line 1"):
        asked("aime", tmp_path / "twice.jsonl", [{**row, "id": 1}, {**row, "id": 1}])


def gpqa(number: int) -> dict[str, str]:
    return {
        "Record ID": f"rec{number}",
        "Subdomain": "Physics",
        "Incorrect Answer 3": "12 m",
        "Incorrect Answer 1": "10 m",
        "Question": f"How far? ({number})",
        "Incorrect Answer 2": "11 m",
        "Correct Answer": "9 m",
        "Explanation": "secret",
    }


def test_gpqa_is_shuffled_by_its_id(tmp_path: Path) -> None:
    questions = asked("gpqa", tmp_path / "a.jsonl", [gpqa(n) for n in range(400)])
    golds = collections.Counter(question.gold for question in questions)
    assert set(golds) == set("ABCD") and min(golds.values()) > 70
    again = asked("gpqa", tmp_path / "b.jsonl", [gpqa(n) for n in reversed(range(400))])
    assert {q.id: q.gold for q in questions} == {q.id: q.gold for q in again}
    for question in questions[:8]:
        assert f"{question.gold}) 9 m\n" in text_of(question) + "\n"
        assert "secret" not in text_of(question) and question.group == "Physics"
        assert kind(question, f"Answer: {question.gold}") == "right"
        assert kind(question, "It is 9 m.") == "right" and kind(question, "11 m") == "wrong"
    row = gpqa(0)
    del row["Incorrect Answer 3"]
    with pytest.raises(DataError, match="no column 'Incorrect Answer 3'"):
        asked("gpqa", tmp_path / "c.jsonl", [row])


def test_gpqa_from_csv_with_a_mark_in_front(tmp_path: Path) -> None:
    row = gpqa(1)
    path = tmp_path / "a.csv"
    text = ",".join(row) + "\r\n" + ",".join(f'"{value}"' for value in row.values()) + "\r\n"
    path.write_text("\ufeff" + text, encoding="utf-8")
    (question,), _ = read(SUITES["gpqa"], [path])
    (same,) = asked("gpqa", tmp_path / "a.jsonl", [row])
    assert (question.id, question.gold, question.digest) == ("rec1", same.gold, same.digest)


def test_mmlu_in_two_spellings(tmp_path: Path) -> None:
    columns = {"Question": "2 + 2?", "A": "3", "B": "4", "C": "5", "D": "6"}
    wide = {**columns, "Answer": "B", "Subject": "maths"}
    rows: list[dict[str, Any]] = [
        wide,
        {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1, "subject": "maths"},
        {"question": "2 + 2?", "choices": "['3', '4', '5', '6']", "answer": "1"},
        {"question": "2 + 2?", "choices": '["3", "4", "5", "6"]', "answer": "b"},
    ]
    questions = asked("mmlu", tmp_path / "a.jsonl", rows)
    assert len({question.digest for question in questions}) == 1
    assert [question.group for question in questions] == ["maths", "maths", "", ""]
    for question in questions:
        assert question.gold == "B" and "B) 4\nC) 5" in text_of(question)
        assert kind(question, "**B**") == "right" and kind(question, "Answer: E") == "unparsed"
    for wrong in ({"answer": 4}, {"answer": "E"}, {"choices": "x"}, {"choices": ["x"]}):
        with pytest.raises(DataError, match="must be a"):
            asked("mmlu", tmp_path / "b.jsonl", [{**rows[1], **wrong}])


def test_hle_without_images(tmp_path: Path) -> None:
    row = {"id": "1", "image": "", "answer_type": "exactMatch", "category": "Math"}
    rows = [
        {**row, "question": "Half?", "answer": "0.5"},
        {**row, "id": "2", "question": "A name?", "answer": "Euler"},
        {**row, "id": "3", "image": "data:image/png;base64,xx", "question": "?", "answer": "x"},
        {
            **row,
            "id": "4",
            "answer_type": "multipleChoice",
            "question": "Which?\nA. x\nB. y\nC. z\nD. u\nE. v",
            "answer": "B",
        },
    ]
    path = lines(tmp_path / "a.jsonl", rows)
    questions, left_out = read(SUITES["hle"], [path])
    assert left_out == {"it has an image": 1} and [q.id for q in questions] == ["1", "2", "4"]
    half, name, choice = questions
    assert kind(half, "Answer: 1/2") == "right" and kind(half, "Answer: 0.6") == "wrong"
    assert kind(name, "Answer: euler") == "right" and kind(name, "Answer: him") == "unparsed"
    assert kind(choice, "Answer: B") == "right" and kind(choice, "Answer: E") == "wrong"
    assert kind(choice, "Answer: F") == "unparsed"
    judged, _ = read(SUITES["hle"], [path], Graders(judge=Says({"Euler": True})))
    assert kind(judged[1], "Answer: him") == "right"


class Says:
    """A judge that goes by words in the criterion."""

    def __init__(self, verdicts: Mapping[str, bool | None]) -> None:
        self.verdicts = verdicts
        self.asked: list[tuple[str, str, str]] = []

    def met(self, criterion: str, asked: str, answer: str) -> bool | None:
        self.asked.append((criterion, asked, answer))
        return next(verdict for word, verdict in self.verdicts.items() if word in criterion)


HEALTH = {
    "prompt_id": "p1",
    "prompt": [
        {"role": "user", "content": "I feel dizzy."},
        {"role": "assistant", "content": "Since when?"},
        {"role": "user", "content": "Today."},
    ],
    "rubrics": [
        {"criterion": "asks about fainting", "points": 6, "tags": []},
        {"criterion": "says to rest", "points": 4},
        {"criterion": "names a dose", "points": -5},
    ],
}


def test_healthbench(tmp_path: Path) -> None:
    judge = Says({"fainting": True, "rest": False, "dose": True})
    (question,) = asked("healthbench", tmp_path / "a.jsonl", [HEALTH], Graders(judge=judge))
    assert len(question.messages) == 3 and question.id == "p1"
    assert question.conversation(Effort.LOW).messages[2].channel == "final"
    assert question.mark(Answered("Did you faint?")) == Mark("wrong", "", pytest.approx(0.1))
    assert len(judge.asked) == 3 and judge.asked[0][2] == "Did you faint?"
    assert question.mark(Answered("")).kind == "unparsed"
    judge.verdicts = {"fainting": True, "rest": True, "dose": False}
    assert question.mark(Answered("x")) == Mark("right", "", 1.0)
    judge.verdicts = {"fainting": True, "rest": None}
    assert question.mark(Answered("x")).kind == "failed"
    as_text = {**HEALTH, "rubrics": json.dumps(HEALTH["rubrics"])}
    (same,) = asked("healthbench", tmp_path / "b.jsonl", [as_text], Graders(judge=judge))
    assert same.gold == question.gold
    for wrong in ({"rubrics": []}, {"rubrics": [{"points": 1}]}, {"prompt": [{"role": "x"}]}):
        with pytest.raises(DataError):
            asked("healthbench", tmp_path / "c.jsonl", [{**HEALTH, **wrong}], Graders(judge=judge))


# ---- programs ------------------------------------------------------------------------------------


class Here:
    """Runs programs in this process's own Python, without a sandbox: they are ours."""

    def run(self, program: str, given: bytes, seconds: float) -> Finished:

        done = subprocess.run(
            [sys.executable, "-I", "-c", program], input=given, capture_output=True
        )
        return Finished(done.stdout.decode(), done.stderr.decode(), done.returncode)


def block(code: str) -> str:
    return f"Here it is:\n\n```python\n{code}\n```\nDone."


HUMANEVAL = {
    "task_id": "HumanEval/1",
    "prompt": 'def twice(x):\n    """Two times x."""\n',
    "entry_point": "twice",
    "canonical_solution": "    assert x != 7\n    return [x * 2, (x, 0.1 + 0.2)]\n",
    "base_input": [[1], [2]],
    "plus_input": [[7], [0.5]],
    "contract": "",
    "atol": 0,
}


def test_humaneval_plus(tmp_path: Path) -> None:
    (question,) = asked("humaneval", tmp_path / "a.jsonl", [HUMANEVAL], Graders(runner=Here()))
    good = "def twice(x):\n    return [x + x, (x, 0.3)]"
    assert kind(question, block(good)) == "right" and kind(question, good) == "right"
    assert kind(question, block("    return [x + x, (x, 0.3)]")) == "right"  # the body alone
    assert kind(question, block("def twice(x):\n    return [2, (1, 0.3)]")) == "wrong"
    assert kind(question, block("def twice(x):\n    return [x + x, [x, 0.3]]")) == "wrong"
    assert kind(question, block("import os\nprint([])\nos._exit(0)")) == "wrong"
    assert kind(question, "I cannot.") == "unparsed"
    broken = {**HUMANEVAL, "canonical_solution": "    return y\n"}
    (question,) = asked("humaneval", tmp_path / "b.jsonl", [broken], Graders(runner=Here()))
    assert kind(question, block(good)) == "failed"


def test_functions_with_a_test(tmp_path: Path) -> None:
    row = {
        "task_id": 2,
        "prompt": "Write a function that doubles.",
        "test": "assert twice(2) == 4\n",
    }
    (mbpp,) = asked("mbpp", tmp_path / "a.jsonl", [row], Graders(runner=Here()))
    assert kind(mbpp, block("def twice(x):\n    return 2 * x")) == "right"
    assert kind(mbpp, block("def twice(x):\n    return x")) == "wrong"
    assert kind(mbpp, block("raise SystemExit(0)")) == "wrong"
    test = "def check(f):\n    assert f(2) == 4\n"
    row = {**HUMANEVAL, "canonical_solution": "    return 2 * x\n", "test": test}
    del row["base_input"], row["plus_input"]
    (human,) = asked("humaneval", tmp_path / "b.jsonl", [row], Graders(runner=Here()))
    assert kind(human, block("def twice(x):\n    return 2 * x")) == "right"
    assert kind(human, block("def twice(x):\n    return x")) == "wrong"


def test_choices_in_the_layouts_of_copies(tmp_path: Path) -> None:
    """Without names of columns, with ten options, without an id, with an order of its own."""
    path = tmp_path / "abstract_algebra_test.csv"
    path.write_text('"Find it, please",0,4,2,6,B\nHow many?,8,2,24,120,C\n')
    found = read(SUITES["mmlu"], [path])[0]
    assert [one.gold for one in found] == ["B", "C"]
    assert found[0].group == "abstract_algebra" and "Find it, please" in text_of(found[0])
    options = {"question": "Which?", "options": list("abcdefghij"), "answer": "I"}
    assert asked("mmlu", tmp_path / "pro.jsonl", [options])[0].gold == "I"
    assert asked("gpqa", tmp_path / "copy.jsonl", [options])[0].gold == "I"
    row = {"Question": "Which?", "Correct Answer": "x"}
    row |= {f"Incorrect Answer {n}": str(n) for n in (1, 2, 3)}
    (first,) = asked("gpqa", tmp_path / "a.jsonl", [row])
    (second,) = asked("gpqa", tmp_path / "b.jsonl", [row])
    assert first == second or text_of(first) == text_of(second)


def test_golds_as_files_write_them(tmp_path: Path) -> None:
    rows = [
        {"question": "1?", "answer": "336^\\circ"},
        {"question": "2?", "answer": "$\\boxed{70}$"},
    ]
    for question, right in zip(asked("aime", tmp_path / "a.jsonl", rows), (336, 70), strict=True):
        assert kind(question, f"\\boxed{{{right}}}") == "right"
    empty = {"bytes": None, "path": None}
    row = {"id": "1", "question": "?", "image": empty, "answer": "5", "answer_type": "exactMatch"}
    assert asked("hle", tmp_path / "h.jsonl", [row])
    judge = Says({})
    text = {**HEALTH, "rubrics": [{"criterion": "x", "points": "5"}]}
    (question,) = asked("healthbench", tmp_path / "b.jsonl", [text], Graders(judge=judge))
    assert json.loads(question.gold) == [["x", 5.0]]


def test_questions_and_answers_of_the_user(tmp_path: Path) -> None:
    rows = [
        {"question": "How many?", "answer": "2 and 2 are 4.\n#### 4"},
        {"prompt": "Which city?", "answer": "Oslo"},
    ]
    number, city = asked("qa", tmp_path / "a.jsonl", rows)
    assert number.gold == "4" and kind(number, "Answer: 4") == "right"
    assert kind(number, "Answer: 3, 4") != "right"
    assert kind(city, "Answer: Oslo") == "right"
    assert kind(city, "Answer: Oslo, Bergen") == "unparsed"


SAYS = """import json, os, sys
said = json.dumps(%s)
frame = sys._getframe()
while frame.f_back:
    frame = frame.f_back
    word = frame.f_locals.get("task", {}).get("word")
    if word:
        for place in range(1, 10):
            try:
                os.write(place, (chr(10) + word + said + chr(10)).encode())
            except OSError:
                pass
        os._exit(0)

def twice(x):
    return 0"""
CHEATS = {
    "ends": "import os\n\ndef twice(x):\n    os._exit(0)",
    "ends at once": "import os\nos._exit(0)\ndef twice(x):\n    pass",
    "equals everything": """class Yes:
    __eq__ = __ge__ = __le__ = lambda *_: True

def twice(x):
    return Yes()""",
    "its own check": "def check(f):\n    pass\n\ndef twice(x):\n    return 0",
    "other builtins": """import builtins
builtins.AssertionError = int
builtins.exec = builtins.compile = lambda *_: None

def twice(x):
    return 0""",
    "says that it passed": SAYS % '[["returned", None, None]]',
    "says that the test passed": SAYS % '{"calls": [], "waits": False, "raised": ""}',
    "says what is no result": SAYS % "[5]",
    "says what is no value": SAYS % '[["returned", ["int", "abc"], None]]',
    "leaves what are no arguments": SAYS % '[["returned", None, ["list", []]]]',
    "leaves arguments without names": SAYS
    % '[["returned", None, ["list", [["list", []], ["dict", [[None, None]]]]]]]',
    "leaves more than it was given": SAYS
    % '[["returned", None, ["list", [["list", [None] * 9], ["dict", [["f", None]]]]]]]',
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_code_cannot_say_that_it_passed(tmp_path: Path, cheat: str) -> None:
    row = {**HUMANEVAL, "canonical_solution": "    return 2 * x\n"}
    tests = {"test": "def check(f):\n    assert f(2) == 4\n    assert f(3) >= 6\n"}
    for given in (tests, {"base_input": [[2]], "plus_input": [[3]]}):
        kept = {name: row[name] for name in ("task_id", "prompt", "entry_point")}
        both = {**kept, "canonical_solution": row["canonical_solution"], **given}
        (question,) = asked("humaneval", tmp_path / "a.jsonl", [both], Graders(runner=Here()))
        assert kind(question, block(CHEATS[cheat])) == "wrong"


def test_a_test_that_draws_its_arguments_and_stops_at_what_is_unknown(tmp_path: Path) -> None:
    """As some of HumanEval's do: other arguments in every round, and a check that only a result
    passes, often.
    """
    test = """import math, random

def check(f):
    for _ in range(60):
        n = random.randint(1, 1000)
        assert f(n) == 2 * n
        assert f(n) is not None and math.fabs(f(n) - 2 * n) < 1e-9 and (f(n) is True) is False
        assert type(f(n)) is int
"""
    row = {**HUMANEVAL, "canonical_solution": "    return 2 * x\n", "test": test}
    del row["base_input"], row["plus_input"]
    (question,) = asked("humaneval", tmp_path / "a.jsonl", [row], Graders(runner=Here()))
    assert kind(question, block("def twice(x):\n    return 2 * x")) == "right"
    assert kind(question, block("def twice(x):\n    return 2.0 * x")) == "wrong"


def test_a_test_that_calls_with_its_own_results(tmp_path: Path) -> None:
    """And with tuples, sets, names, helpers of the prompt, errors, and what is not data."""
    prompt = 'def half(x):\n    return x / 2\n\ndef twice(x, by=2):\n    """Two times x."""\n'
    test = """def check(f):
    assert half(f(3)) == 3 and f(f(f(1))) == 8 and f((1,)) == (1, 1)
    assert abs(f(0.5) - 1.0) < 1e-9 and f(x=2, by=3) == 6
    for x in range(5):
        assert f(x) == 2 * x
    try:
        f(None)
    except TypeError:
        return
    raise AssertionError
"""
    row = {
        "task_id": "1",
        "prompt": prompt,
        "canonical_solution": "    return x * by\n",
        "entry_point": "twice",
        "test": test,
    }
    (question,) = asked("humaneval", tmp_path / "a.jsonl", [row], Graders(runner=Here()))
    assert kind(question, block("def twice(x, by=2):\n    return by * x")) == "right"
    assert kind(question, block("def twice(x, by=2):\n    return x + x")) == "wrong"
    assert kind(question, block("def thrice(x):\n    return x")) == "wrong"
    objects = {**row, "test": "def check(f):\n    assert f(object()) is None\n"}
    (question,) = asked("humaneval", tmp_path / "b.jsonl", [objects], Graders(runner=Here()))
    assert kind(question, block("def twice(x):\n    return None")) == "failed"


def test_functions_that_work_in_place(tmp_path: Path) -> None:
    """The function changes its argument: what it leaves there is its result."""
    row = {
        "task_id": "1",
        "prompt": 'def order(x, seen=None):\n    """Sort x."""\n',
        "canonical_solution": "    x.sort()\n",
        "entry_point": "order",
    }
    good = "def order(x, seen=None):\n    x[:] = sorted(x)"
    copied = "def order(x, seen=None):\n    x = sorted(x)"
    test = "def check(f):\n    a = [3, 1, 2]\n    f(x=a)\n    assert a == [1, 2, 3]\n"
    unsolved = {key: value for key, value in row.items() if key != "canonical_solution"}
    layouts = (
        {**row, "test": test},
        {**unsolved, "test": test},
        {**row, "base_input": [[[3, 1, 2]]], "plus_input": [[[]]]},
    )
    for number, one in enumerate(layouts):
        path = tmp_path / f"{number}.jsonl"
        (question,) = asked("humaneval", path, [one], Graders(runner=Here()))
        assert kind(question, block(good)) == "right"
        assert kind(question, block(copied)) == "wrong"
        assert kind(question, block("def order(x, seen=None):\n    x.clear()")) == "wrong"


def test_arguments_of_every_kind_are_changed_in_place() -> None:
    """And only into what a function could make of them: a number stays what it is."""
    numbers, counts, seen = [3, 1], {"a": 1}, {5}
    one = ((numbers, 7), counts)
    harness.put_back(one, {"seen": seen}, harness.plain([[([1, 3], 8), {"b": [2]}], {"seen": {6}}]))
    assert one == (([1, 3], 7), {"b": [2]}) and seen == {6}
    assert one[0][0] is numbers and one[1] is counts
    harness.put_back((numbers,), {}, harness.plain([[{"a": 1}, [2]], {"other": [1]}]))
    assert numbers == [1, 3]  # a list becomes no dict, and what was not given is nothing


def test_mbpp_as_it_was_published(tmp_path: Path) -> None:
    """A text, the tests as a list, and no name of the function but in them."""
    row = {
        "text": "Write a function that doubles.",
        "code": "def twice(x):\n    return 2 * x",
        "task_id": 7,
        "test_setup_code": "",
        "test_list": ["assert twice(2) == 4", "assert sorted([twice(3)]) == [6]"],
        "challenge_test_list": [],
    }
    plus = {
        "task_id": 8,
        "prompt": "Write a function that doubles.",
        "code": row["code"],
        "test_imports": "['import math']",
        "test_list": "['assert twice(2) == 2 * math.floor(2.5)']",
    }
    both = asked("mbpp", tmp_path / "a.jsonl", [row, plus], Graders(runner=Here()))
    for question in both:
        assert "twice" in text_of(question) and "assert twice(2) == " in text_of(question)
        assert kind(question, block("def twice(x):\n    return x + x")) == "right"
        assert kind(question, block("def twice(x):\n    return 5")) == "wrong"
    with pytest.raises(DataError, match="test_list"):
        bare = {"task_id": 1, "prompt": "?"}
        asked("mbpp", tmp_path / "b.jsonl", [bare], Graders(runner=Here()))


def packed(value: object, protocol: int = 4) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


def contest(cases: Sequence[Mapping[str, str]], **more: Any) -> dict[str, Any]:
    return {
        "question_id": "q1",
        "question_content": "Add two numbers.",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
        "private_test_cases": packed(json.dumps(cases)),
        **more,
    }


def test_livecodebench(tmp_path: Path) -> None:
    row = contest([{"input": "5 5", "output": "10.0 ", "testtype": "stdin"}])
    (question,) = asked("livecodebench", tmp_path / "a.jsonl", [row], Graders(runner=Here()))
    assert kind(question, block("print(sum(map(int, input().split())))")) == "right"
    assert kind(question, block("print(3)")) == "wrong"
    assert question.mark(Answered(block("1/0"))).why.startswith("case 1 of 2")
    calls = [{"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}]
    row = contest(calls, public_test_cases="[]", metadata='{"func_name": "add"}')
    (question,) = asked("livecodebench", tmp_path / "b.jsonl", [row], Graders(runner=Here()))
    method = "class Solution:\n    def add(self, xs, y):\n        return tuple(x + y for x in xs)"
    assert kind(question, block(method)) == "right"
    assert kind(question, block(method.replace("x + y", "x"))) == "wrong"


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (pytest.fail, ("it was run",))


@pytest.mark.parametrize("bad", [Bomb(), ["x"], {"x": "y"}, ("x", "y"), 5, b"x", None])
def test_a_pickle_may_hold_one_text_and_nothing_else(bad: object) -> None:
    for protocol in range(6):
        with pytest.raises(DataError, match="pickle"):
            packed_tests.unpacked(packed(bad, protocol), "a", "private_test_cases")


def test_pickles_of_texts() -> None:
    for protocol in range(6):
        for text in ("", "[1]", "é" * 70_000):
            assert packed_tests.unpacked(packed(text, protocol), "a", "b") == text
    for broken in ("%%%", "eJw=", packed("x")[:-8], base64.b64encode(zlib.compress(b"")).decode()):
        with pytest.raises(DataError):
            packed_tests.unpacked(broken, "a", "b")


def test_code_in_texts() -> None:
    two = block("def f():\n    pass") + block("f()")
    assert code_of(two) == "f()" and "def f" in str(code_of(two, "f"))
    assert code_of("```\nx = 1\n```\n```bash\nls\n```") == "x = 1"
    assert code_of("```python\nx = 1") == "x = 1"  # never closed
    assert code_of("x = 1") == "x = 1" and code_of("It is easy.") is None


def test_of_several_blocks_the_labelled_one() -> None:
    code = "```python\ndef f(x):\n    return x\n```"
    assert code_of(f"{code}\nIt prints\n```\n1 2 3\n```") == "def f(x):\n    return x"
    usage = "```python\nprint(f(1))\n```"
    assert code_of(f"{code}\n{usage}", "f") == "def f(x):\n    return x"
    other = "```python\ndef f_slow(x):\n    return 0\n```"
    assert code_of(f"{code}\n{other}", "f") == "def f(x):\n    return x"
    assert code_of("```python\ndef  f (x):\n    pass\n```\n" + other, "f") == (
        "def  f (x):\n    pass"
    )


@pytest.mark.parametrize("code", ["x = '\0'", "x = '\ud800'", "#" * 200_000])
def test_programs_that_cannot_be_started_are_wrong(code: str) -> None:
    runner = Sandboxed.__new__(Sandboxed)  # no sandbox is asked
    done = runner.run(code, b"", 1.0)
    assert done.status and done.reason and "program" in done.reason


def test_equal_values() -> None:
    huge = ["int", "7" * 400]
    assert not same(huge, ["float", "1.0"]) and not same(["float", "1.0"], huge)
    assert same(["int", "7" * 5000], ["int", "7" * 5000])
    assert not same(["float", "inf"], ["float", "1.0"])
    assert same(["float", "inf"], ["float", "inf"])
    first = ["set", sorted([["float", "2.0"], ["int", "1"]], key=json.dumps)]
    second = ["set", sorted([["int", "2"], ["int", "1"]], key=json.dumps)]
    assert same(first, second)
    assert same(
        ["dict", [[one, None] for one in first[1]]], ["dict", [[one, None] for one in second[1]]]
    )
    assert same(["float", "0.1"], ["float", "0.10000001"]) is True
    assert same(["float", "1.0"], ["int", "1"]) and same(True, ["int", "1"])
    assert not same(["int", "1"], ["int", "2"]) and not same("1", ["int", "1"])
    assert not same(["tuple", []], ["list", []])
    assert same(["tuple", []], ["list", []], kinds=False)
    assert same(["float", "nan"], ["float", "nan"])
    assert same_output("1 2.50\n", "1.0 2.5") and not same_output("1\n2", "1 2")


def test_the_judge_of_answers_is_asked_about_the_final_text_alone() -> None:
    judge = Says({"Euler": False})
    assert health.same_answer(judge, "Who?", "Euler", "him").kind == "wrong"
    assert judge.asked == [(f'{health.SAME}"Euler"', "Who?", "him")]


class NoRunner:
    def run(self, program: str, given: bytes, seconds: float) -> Finished:
        raise AssertionError("nothing is run")


@pytest.mark.parametrize("wanted", ["[1", "[" * 100_000, ""])
def test_damaged_cases_are_named_before_anything_is_asked(tmp_path: Path, wanted: str) -> None:
    case = {"input": "1", "output": wanted, "testtype": "functional"}
    row = {
        "question_id": "1",
        "question_content": "?",
        "public_test_cases": json.dumps([case]),
        "private_test_cases": "[]",
        "metadata": '{"func_name": "f"}',
    }
    with pytest.raises(DataError, match="is not JSON"):
        read(
            SUITES["livecodebench"],
            [lines(tmp_path / "l.jsonl", [row])],
            Graders(runner=NoRunner()),
        )


def test_a_tolerance_that_is_none(tmp_path: Path) -> None:
    row = {
        "task_id": "1",
        "prompt": "def f(x):",
        "entry_point": "f",
        "canonical_solution": " return x",
        "base_input": [[1]],
        "plus_input": [],
        "atol": "close",
    }
    with pytest.raises(DataError, match="'atol' must be a number"):
        read(SUITES["humaneval"], [lines(tmp_path / "h.jsonl", [row])], Graders(runner=NoRunner()))
