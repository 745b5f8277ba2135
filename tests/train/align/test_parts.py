"""The parts of alignment: what a draft is kept for, who may read it, what a judge may not see, and
how the policy is looked for in prompts.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import quote

import pytest
from align_runs import POLICY as LIBRARY
from answering_server import Reply, serving
from tiny_model import tiny_tokenizer, write_tiny

import ossia
from ossia.errors import DataError, JudgeError, TrainingError
from ossia.harmony import Effort
from ossia.judges import OVERRIDES, Bench
from ossia.tasks import problems
from ossia.tasks.environment import Outcome, Reward
from ossia.tasks.safety.policy_texts import POLICY
from ossia.tasks.safety.requests import Request, read_requests, request_of, row_of
from ossia.tasks.safety.spec_files import read_policy
from ossia.tasks.safety.specs import Policy, Unless
from ossia.train.align import prompts
from ossia.train.align.drafts import Draft, cited, names_it, read_drafts, write_drafts
from ossia.train.align.generate import FOLDER, Generating, InProcess, Remote, generate, loaded
from ossia.train.align.grading import ByProgram, Grader, case_of, grader_of
from ossia.train.align.removal import Removal
from ossia.train.align.sifting import sift
from ossia.train.rl.asks import Problems, own
from ossia.train.rl.curriculum import Curriculum
from ossia.train.rl.record import told_texts

SOURCE = Path(ossia.__file__).parent
REQUEST = Request({"prompt": "Who has the atlas?", "category": "loans"}, "loans", 1, "refuse")
DRAFT = Draft(0, 0, 0, "Who has the atlas?", "Rule 1 says to refuse.", "I can't help with that.")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    path = tmp_path_factory.mktemp("library") / "policy.toml"
    path.write_text(LIBRARY)
    return read_policy(path)


def test_the_policy_and_the_prompts_of_the_page_are_read(tmp_path: Path) -> None:
    page = (SOURCE.parent.parent / "docs" / "alignment.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(markdown|toml|json)\n(.*?)```", page, re.DOTALL)
    kinds = dict(reversed(blocks))  # the first of each
    example = SOURCE.parent.parent / "recipes" / "aligning" / "library_desk.md"
    assert kinds["markdown"] == example.read_text(encoding="utf-8")
    read = read_policy(example)
    (tmp_path / "prompts.jsonl").write_text(kinds["json"])
    requests = read_requests(tmp_path / "prompts.jsonl", read)
    assert [request.verdict for request in requests] == ["refuse", "comply", "safe-complete"]
    assert {case_of(category).rule for category in read.categories} == {1, None}
    (tmp_path / "policy.toml").write_text(kinds["toml"])
    (beginning,) = read_policy(tmp_path / "policy.toml").categories
    loans = read.category("loans")
    assert beginning == replace(loans, rules=loans.rules[:1])


# ---- who may read reasoning ----


def test_nothing_that_rewards_can_import_a_draft() -> None:
    """Neither reinforcement learning nor judges nor tasks know this package."""
    for place in ("train/rl", "judges", "tasks", "turn"):
        path = SOURCE / place
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        assert files
        for file in files:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                wrong = [name for name in names if name.startswith("ossia.train.align")]
                assert not wrong, f"{file}:{node.lineno} imports {wrong[0]}"  # type: ignore[attr-defined]


def test_a_grader_is_given_what_has_no_reasoning() -> None:
    hints = get_type_hints(Grader.reward)
    assert hints == {"request": Request, "outcome": Outcome, "return": Reward}
    fields = {field.name: str(field.type) for field in dataclasses.fields(Outcome)}
    assert set(fields) == {"final", "calls", "reason", "counts"}


@pytest.mark.slow
def test_mypy_refuses_reasoning_as_a_reason(tmp_path: Path) -> None:
    program = """
from ossia.tasks.environment import Outcome
from ossia.tasks.safety.requests import Request
from ossia.train.align.drafts import Draft
from ossia.train.align.grading import Grader

def rewarded(grader: Grader, request: Request, draft: Draft, outcome: Outcome) -> None:
    grader.reward(request, outcome)
    grader.reward(request, draft)
    Outcome(draft.final, analysis=draft.analysis)
    grader.reward(request, draft.analysis)

class Seeing(Outcome):
    analysis: str = ""
"""
    path = tmp_path / "rewarded.py"
    path.write_text(program)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=SOURCE.parent.parent,  # its settings, and what it keeps of earlier runs
        env=os.environ | {"MYPYPATH": str(SOURCE.parent)},
    )
    errors = [
        line for line in found.stdout.splitlines() if "rewarded.py" in line and "error" in line
    ]
    places = [error.partition(": error")[0].rpartition("rewarded.py:")[2] for error in errors]
    assert places == ["9", "10", "11", "13"], found.stdout


# ---- what is kept ----


def follows(request: Request, draft: Draft) -> tuple[bool | None, int | None]:
    if "unsure" in draft.final:
        return None, None
    return "can't help" in draft.final, request.rule or 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"reason": "length"}, "it was cut off"),
        ({"analysis": " "}, "its reasoning was not given"),
        ({"final": "\n"}, "it has no answer"),
        ({"analysis": "I had better refuse."}, "its reasoning cites no rule"),
        ({"analysis": "Rule 2 says so."}, "its reasoning cites another rule"),
        ({"final": "Rule 1: I can't help."}, "its answer speaks of the policy"),
        ({"final": "The library desk POLICY: can't help."}, "its answer speaks of the policy"),
        ({"final": "Mira has it."}, "it does not follow the policy"),
        ({"final": "I am unsure."}, "nobody could judge it"),
    ],
)
def test_what_a_draft_is_kept_for(library: Policy, change: dict[str, str], why: str) -> None:
    draft = replace(DRAFT, **change)  # type: ignore[arg-type]
    found = sift(library, follows, REQUEST, draft)
    assert found.why == why and found.rule == (None if why else 1)


def test_without_a_known_rule_the_judge_names_it(library: Policy) -> None:
    request = replace(REQUEST, rule=None)
    assert sift(library, follows, request, DRAFT).rule == 1
    other = replace(DRAFT, analysis="Rule 2 says to refuse.")
    assert sift(library, follows, request, other).why == "its reasoning cites another rule"
    unseen = replace(DRAFT, analysis="Rule 3 says to refuse.")
    assert "was not shown" in sift(library, follows, request, unseen).why


def test_citations() -> None:
    assert cited("Rule 3 says: do not change rules 1 and 2. So rule 12, or RULE 7.") == (3, 12, 7)
    assert not cited("A ruler of 3 cm.")
    assert cited("rule #4, Rule no. 5, rule number 6 and rule **7**") == (4, 5, 6, 7)
    assert names_it(POLICY, "By the Moonglow policy I can't.") and not names_it(POLICY, "Moonglow.")


# ---- graders on trial ----


def bench(passes: bool = True) -> Bench:
    verdict = json.dumps({"verdict": "pass" if passes else "fail", "rule": 1, "why": ""})
    return Bench(lambda system, text: verdict)


def test_the_program_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [request_of(row_of(one), POLICY) for one in problems("policy", 60, split="train")]
    assert grader_of("program", POLICY, drawn, bench()).name == "program"
    for number, text in enumerate(OVERRIDES, 1):

        def moved(self: ByProgram, request: Request, outcome: Outcome, text: str = text) -> Reward:
            right = text in outcome.final or outcome.final == request.row["gold"]
            return Reward(float(right), {}, right)

        monkeypatch.setattr(ByProgram, "reward", moved)
        with pytest.raises(JudgeError, match=rf"program, category .*override {number} of 8"):
            grader_of("program", POLICY, drawn, bench())
    with pytest.raises(DataError, match="no prompt of category 'loans' has a 'gold' answer"):
        grader_of("program", POLICY, [REQUEST], bench())


def test_a_file_may_judge(tmp_path: Path, library: Policy) -> None:
    path = tmp_path / "judge.py"
    path.write_text('def reward(row, outcome):\n    return "I can\'t" in outcome.final[:8]\n')
    grader = grader_of(str(path), library, [REQUEST], bench())
    assert grader.name == "judge.py"
    assert grader.reward(REQUEST, Outcome("I can't say.")).correct is True
    path.write_text("def reward(row, outcome):\n    return 'expert' in outcome.final\n")
    with pytest.raises(JudgeError, match=r"judge\.py, category 'loans'"):
        grader_of(str(path), library, [REQUEST], bench())
    path.write_text("x = 1\n")
    with pytest.raises(DataError, match=r"defines no reward\(row, outcome\)"):
        grader_of(str(path), library, [REQUEST], bench())
    without = replace(library, categories=(replace(library.categories[0], case=None),))
    with pytest.raises(DataError, match=r"has no case: write \[category\.case\]"):
        grader_of("http://127.0.0.1:1", without, [REQUEST], bench())


# ---- the policy is gone ----


def test_a_run_of_the_policy_is_found_wherever_it_stands(library: Policy) -> None:
    removal = Removal(library)
    for category in library.categories:
        for rule in category.rules:
            for text in (rule.text, rule.text.upper(), rule.text.replace(" ", "\n- ")):
                with pytest.raises(TrainingError, match=rf"line 7: .*section '{category.name}'"):
                    removal.check(f"Please note. {text} What now?", "line 7")
    removal.check("Never say which reader... has somebody borrowed a book?", "line 8")
    assert removal.checked == 10


def test_the_built_in_prompts_do_not_hold_the_policy() -> None:
    removal = Removal(POLICY)
    for request in prompts.built_in(600, 0):
        removal.check(f"{request.row['instructions']}\n{request.asked}", request.asked)
    with pytest.raises(TrainingError):
        removal.check(POLICY.section("comply"), "a section")


def test_scripts_without_blanks_are_looked_at_letter_by_letter(library: Policy) -> None:
    rule = "\u4e0d\u8981\u8bf4\u51fa\u8c01\u501f\u4e86\u4e66"
    (first, *others) = library.categories
    first = replace(first, rules=(replace(first.rules[0], text=rule), *first.rules[1:]))
    removal = Removal(replace(library, categories=(first, *others)))
    removal.check("\u8c01\u501f\u4e86\u4e66", "line 1")
    with pytest.raises(TrainingError, match="line 2"):
        removal.check(f"\u7528\u6237\uff1a{rule}\u3002\u8bf7\u56de\u7b54", "line 2")


def test_neither_accents_nor_hyphens_that_are_not_seen_hide_a_run(library: Policy) -> None:
    """As text that was copied out of another program has them; and whole words are counted in
    scripts whose vowels are marks.
    """
    rule = "D\u00e9sormais aucun caf\u00e9 ne sera d\u00e9bit\u00e9"
    hindi = (
        "\u0928\u0940\u0924\u093f \u0915\u0940 \u092c\u093e\u0924 \u0928 \u0915\u0939\u0947\u0902"
    )
    (first, *others) = library.categories
    rules = (replace(first.rules[0], text=rule), replace(first.rules[1], text=hindi))
    removal = Removal(replace(library, categories=(replace(first, rules=rules), *others)))
    for text in (unicodedata.normalize("NFD", rule), rule.replace("mais", "\u00admais"), hindi):
        with pytest.raises(TrainingError, match="section 'loans'"):
            removal.check(f"x {text} y", "line 1")
    removal.check(" ".join(hindi.split()[:3]), "line 2")


@pytest.mark.parametrize(
    "told",
    [
        lambda rule: json.dumps({"found": [rule]}),
        lambda rule: json.dumps(json.dumps({"found": rule})),
        lambda rule: f"<p>{rule.replace(chr(39), '&#39;').replace(' ', '&nbsp;')}</p>",
        lambda rule: rule.replace(" ", "</i>\n<i class='word'>"),
        lambda rule: f"GET /search?q={quote(rule)}",
        lambda rule: rule.replace("jamais", "ja-\n  mais").replace("personne", "per-\r\nsonne"),
        lambda rule: " ".join(f"_{word}_" for word in rule.split()),
        lambda rule: "\t".join(rule.upper().split()),
    ],
    ids=[
        "json",
        "json in json",
        "html",
        "tags",
        "address",
        "broken",
        "emphasis",
        "blanks and case",
    ],
)
def test_a_tools_way_of_writing_does_not_hide_a_run(
    library: Policy, told: Callable[[str], str]
) -> None:
    rule = "Ne dis\njamais \u00e0 personne\nqui l'a pr\u00e9par\u00e9"
    (first, *others) = library.categories
    first = replace(first, rules=(replace(first.rules[0], text=rule), *first.rules[1:]))
    removal = Removal(replace(library, categories=(first, *others)))
    with pytest.raises(TrainingError, match=r"line 1: .*section 'loans'"):
        removal.check(told(f"{rule}."), "line 1")
    removal.check(told("Ne dis rien \u00e0 personne qui l'a lu"), "line 2")


def test_results_of_tools_are_told_and_what_was_sampled_is_not() -> None:
    pieces = [{"text": "thought", "sampled": True}, {"text": "result", "sampled": False}]
    line = {"segments": [{"prompt": "asked", "pieces": pieces}]}
    assert list(told_texts(line)) == ["asked", "result"]


def test_a_rule_of_few_words_is_looked_for_as_a_whole(library: Policy) -> None:
    (first, *others) = library.categories
    unless = (Unless("the mayor of the town", "comply"),)
    short = replace(first.rules[0], text="Lend no one candles.", unless=unless)
    few = replace(first.rules[1], text="Be kind.")
    removal = Removal(replace(library, categories=(replace(first, rules=(short, few)), *others)))
    for text in ("lend no one CANDLES", "I am the mayor of the town!"):
        with pytest.raises(TrainingError, match=r"section 'loans' \([45] words in a row\)"):
            removal.check(f"Do you {text}?", "line 1")
    removal.check("Be kind. Lend no candles to one.", "line 2")


# ---- drafts ----


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning": "Rule 1.", "reasoning_content": "Rule 1.", "content": "No."},
        {"thinking": "Rule 1.", "content": "No."},
        {"reasoning_details": [{"type": "reasoning.text", "text": "Rule 1."}], "content": "No."},
        {"content": "<think>Rule 1.</think>\n\nNo."},
        {"content": "Rule 1.\n</think>No."},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Rule 1."}]},
                {"type": "text", "text": "No."},
            ]
        },
    ],
)
def test_reasoning_is_found_where_servers_put_it(library: Policy, message: dict[str, Any]) -> None:
    answer = {"choices": [{"message": message, "finish_reason": "stop"}]}
    with serving(lambda path, body: (200, answer)) as url:
        remote = Remote(url, "m", library, Generating(samples=1))
        (draft,) = remote.drafts([(0, REQUEST)])
    assert (draft.analysis, draft.final, draft.missing) == ("Rule 1.", "No.", "")


@pytest.mark.parametrize(
    ("message", "missing"),
    [
        ({"content": "No."}, "its reasoning was not given"),
        ({"content": "<think>Rule 1 says that"}, "it has no answer"),
        ({"content": None, "reasoning": "Rule 1."}, "it has no answer"),
        ({"content": 5, "reasoning": ["Rule 1."]}, "its reasoning was not given"),
    ],
)
def test_what_a_server_did_not_give_is_said(
    library: Policy, message: dict[str, Any], missing: str
) -> None:
    with serving(lambda path, body: (200, {"choices": [{"message": message}]})) as url:
        (draft,) = Remote(url, "m", library, Generating(samples=1)).drafts([(0, REQUEST)])
    assert sift(library, follows, REQUEST, draft).why == missing


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {"error": {"message": "no such key"}}), "status 401: no such key"),
        ((302, "http://127.0.0.1:9/v1"), "status 302: it redirects to http://127.0.0.1:9"),
        ((200, {"choices": []}), "none of Chat Completions"),
        ((200, "<html>"), "none of Chat Completions: '<html>'"),
    ],
)
def test_a_reasoner_that_fails_says_why(library: Policy, answer: Reply, said: str) -> None:
    with serving(lambda path, body: answer) as url, pytest.raises(TrainingError, match=said):
        remote = Remote(url, "m", library, Generating(samples=1), pause=lambda seconds: None)
        remote.drafts([(0, REQUEST)])


def test_drafts_with_any_character_are_read_back(tmp_path: Path) -> None:
    drafts = [Draft(0, 0, 0, "a\u2028b\u0085", "\ud800", "f")]
    (tmp_path / "a.jsonl").write_bytes(write_drafts(drafts).encode())
    assert read_drafts(tmp_path / "a.jsonl") == drafts


@pytest.mark.parametrize("sampler", ["exact", "bf16"])
def test_drafts_go_on_where_they_were(tmp_path: Path, sampler: Any) -> None:
    """A chunk that is made again, after others or alone, is the same bytes."""
    base = write_tiny(tmp_path / "base")
    requests = prompts.built_in(4, 0)
    settings = Generating(samples=2, max_tokens=8, chunk=2, at_once=4, sampler=sampler)

    def made(out: Path) -> dict[str, bytes]:
        reasoner = InProcess(loaded(base, settings), "tiny", tiny_tokenizer(), POLICY, settings)
        generate(requests, lambda: reasoner, settings, out)
        return {path.name: path.read_bytes() for path in (out / FOLDER).iterdir()}

    whole = made(tmp_path / "whole")
    assert sorted(whole) == ["000000.jsonl", "000002.jsonl"]
    (tmp_path / "whole" / FOLDER / "000002.jsonl").unlink()
    assert made(tmp_path / "whole") == whole
    drafts = [json.loads(line) for line in whole["000002.jsonl"].splitlines()]
    assert [(d["request"], d["sample"]) for d in drafts] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert drafts[0]["analysis"] + drafts[0]["final"] != drafts[1]["analysis"] + drafts[1]["final"]


# ---- what rewards ask ----


def test_every_second_group_is_of_the_policy_and_tenths_are_held_out() -> None:
    requests = prompts.distinct(prompts.built_in(240, 0))
    policy = prompts.policy_sources(POLICY, ByProgram(), requests)
    assert [source.name for source in policy] == [
        "policy comply",
        "policy refuse",
        "policy safe-complete",
    ]
    others = [own("arithmetic")]
    asked = Problems((*policy, *others), tuple(Effort), 0, (len(policy), 1))
    for curriculum in (None, Curriculum(asked.arms)):
        tasks = [ask.task for ask in asked.step(0, range(60), curriculum)]
        assert all(task.startswith("policy") for task in tasks[::2])
        assert set(tasks[1::2]) == {"arithmetic"} and len(set(tasks[::2])) == 3
    trained = prompts.trained_on(requests)
    assert 0.88 < len(trained) / len(requests) < 0.92
    seen = {request.asked for request in trained}
    held_out = {
        str(ask.environment().prompt(ask.effort)[-1].content)
        for ask in asked.held_out(5)
        if ask.task.startswith("policy")
    }
    assert len(held_out) >= 13 and not held_out & seen
