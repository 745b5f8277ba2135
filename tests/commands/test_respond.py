"""Many conversations at once give what each gives alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tiny_model import call, final, thought, write_tiny

import ossia
from ossia.commands import respond
from ossia.engine import SampledToken, SamplingParams
from ossia.errors import RequestError
from ossia.harmony import Conversation, Effort, Message, Role
from ossia.llm import LLM
from ossia.tasks import problems
from ossia.tasks.evals import cases
from ossia.tools import PythonFunction, Sessions, from_function


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return ossia.load(write_tiny(tmp_path_factory.mktemp("models") / "tiny"), dtype="float32")


def asked(text: str) -> Conversation:
    return Conversation((Message(Role.USER, text),))


def test_together_as_alone(llm: LLM) -> None:
    """More conversations than run at once, prompts of different lengths."""
    params = llm.params(temperature=0, max_tokens=12)
    questions = [asked("37 + 48? " * (n + 1)) for n in range(7)]
    answers = dict(respond.answer_all(llm, ((q, ()) for q in questions), params, at_once=3))
    assert sorted(answers) == list(range(7))
    for n, question in enumerate(questions):
        (alone,) = respond.answer_all(llm, [(question, ())], params)
        assert alone[1] == answers[n]


def test_a_prompt_that_does_not_fit(llm: LLM) -> None:
    too_long = asked("apple " * llm.config.max_context_length)
    with pytest.raises(RequestError, match="the context holds"):
        list(respond.answer_all(llm, [(too_long, ())], llm.params()))


class ScriptedEngine:
    """Answers each prompt by what it ends with, one token a step for every request."""

    def __init__(self, llm: LLM) -> None:
        self.tokenizer = llm.tokenizer
        self.running: dict[int, list[int]] = {}

    def submit(self, prompt: Sequence[int], params: SamplingParams) -> int:
        text = self.tokenizer.decode(prompt)
        said = (
            final("85")
            if "to=assistant" in text
            else thought("Add.") + call("add", '{"a": 37, "b": 48}')
        )
        if "Hello" in text:
            said = final("Hi")
        number = len(self.running)
        self.running[number] = self.tokenizer.encode_with_specials(said)
        return number

    def step(self) -> list[SampledToken]:
        out = []
        for number, left in self.running.items():
            if left:
                token = left.pop(0)
                out.append(SampledToken(number, token, -1.0, None if left else "stop"))
        return out


def test_tools_run_and_their_results_go_back(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    closed: list[PythonFunction] = []
    monkeypatch.setattr(respond, "Engine", lambda *_, **__: ScriptedEngine(llm))
    monkeypatch.setattr(PythonFunction, "close", lambda tool: closed.append(tool))
    questions = [(asked("37 + 48?"), [from_function(add)]), (asked("Hello"), [])]
    answers = dict(respond.answer_all(llm, questions, llm.params()))
    assert answers[0].end.text == "85" and answers[1].end.text == "Hi"
    (made,) = answers[0].calls
    assert (made.name, made.arguments, made.result) == ("add", '{"a": 37, "b": 48}', "85")
    assert answers[1].calls == () and answers[0].end.reasoning == "Add."
    assert [tool.function.name for tool in closed] == ["add"], "its session is over, too"


def test_sessions_end_with_a_caller_who_stops_asking(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Sessions] = []
    monkeypatch.setattr(Sessions, "close_now", lambda sessions: closed.append(sessions))
    answers = respond.answer_all(
        llm, [(asked("2 + 2?"), []), (asked("Tell me a story."), [])], llm.params(max_tokens=200)
    )
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert len(closed) == 2


def test_evaluate_grades_in_order_and_counts_what_was_cut(llm: LLM) -> None:
    seen: list[tuple[int, int]] = []
    asked_for = list(cases(problems("arithmetic", 2), list(Effort)))
    params = llm.params(seed=1, max_tokens=3)
    report, cut = respond.evaluate(llm, asked_for, params, progress=lambda *at: seen.append(at))
    assert [result.case for result in report.results] == asked_for
    assert cut <= 6 and seen == [(n, 6) for n in range(1, 7)]
    assert all(result.tokens <= 3 for result in report.results)
