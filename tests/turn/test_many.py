"""Many answers at once give what each gives alone; what breaks costs its own sample only."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from tiny_model import call, final, thought, write_tiny

import ossia
from ossia.engine import Engine, SampledToken, SamplingParams
from ossia.errors import CONTEXT_EXCEEDED, DataError, RequestError, ToolError
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    Effort,
    FunctionTool,
    Message,
    Role,
    SystemContent,
    ToolNamespace,
)
from ossia.llm import LLM
from ossia.tasks.environment import Ask, Given, Outcome, Reward
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, ToolResult
from ossia.tools.kinds import FUNCTION
from ossia.turn import Limits
from ossia.turn.chores import Chores
from ossia.turn.many import sample_many
from ossia.turn.rollout import Manner, Sample

PARAMS = SamplingParams()
KEEP = FunctionTool("keep", "Adds a number to the store.", {"type": "object"})


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return ossia.load(write_tiny(tmp_path_factory.mktemp("models") / "tiny"), dtype="float32")


def asked(text: str) -> Conversation:
    return Conversation((Message(Role.USER, text),))


class ScriptedEngine:
    """Answers each prompt with `says(its text)`, one token a step for every request."""

    def __init__(self, tokenizer: Tokenizer, says: Callable[[str], str]) -> None:
        self.tokenizer = tokenizer
        self.says = says
        self.failed: dict[int, Exception] = {}
        self.longest = 4096
        self.left: dict[int, list[int]] = {}
        self.most: dict[int, int] = {}
        self.submitted: list[dict[str, Any]] = []
        self.aborted: list[int] = []

    def submit(self, prompt: Sequence[int], params: SamplingParams, **more: Any) -> int:
        if len(prompt) >= self.longest:
            raise RequestError("too long", "prompt", CONTEXT_EXCEEDED)
        number = len(self.submitted)
        self.submitted.append({"prompt": list(prompt), "params": params, **more})
        said = self.says(self.tokenizer.decode(prompt))
        ids = self.tokenizer.encode_with_specials(said)
        self.left[number] = ids[: params.max_tokens]
        self.most[number] = len(ids)
        return number

    def step(self) -> list[SampledToken]:
        out = []
        for number, left in self.left.items():
            if left:
                token = left.pop(0)
                is_whole = len(self.submitted) > number and self.is_whole(number)
                reason = None if left else ("stop" if is_whole else "length")
                out.append(SampledToken(number, token, -1.0, reason))  # type: ignore[arg-type]
        return out

    def is_whole(self, number: int) -> bool:
        most = self.submitted[number]["params"].max_tokens
        return most is None or most >= self.most[number]

    def abort(self, request_id: int) -> None:
        self.aborted.append(request_id)
        self.left.pop(request_id, None)


class Store:
    """A tool with state: each session has its own sum."""

    kind = FUNCTION
    namespace = ToolNamespace("functions", None, (KEEP,))

    def __init__(self) -> None:
        self.keys: list[SessionKey] = []
        self.closed: list[StoreSession] = []

    def session(self, key: SessionKey) -> StoreSession:
        self.keys.append(key)
        return StoreSession(self)


@dataclass(eq=False)
class StoreSession:
    store: Store
    total: int = 0

    def action(self, function: str, text: str) -> None:
        return None

    def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        self.total += 1
        return ToolResult(f"{self.total} kept")

    def close(self) -> None:
        self.store.closed.append(self)


@dataclass
class TwoQuestions:
    """Asks to keep something, and after the answer, to keep it again: two turns of a user, a tool
    whose state lasts, and a state of its own.
    """

    store: Store
    seen: list[Outcome] = field(default_factory=list)

    @property
    def tools(self) -> list[Any]:
        return [self.store]

    def prompt(self, effort: Effort, system: SystemContent | None = None) -> list[Message]:
        assert system is not None and system.effort is effort
        return [
            Message(Role.SYSTEM, system),
            Message(Role.DEVELOPER, DeveloperContent(tools=(KEEP,))),
            Message(Role.USER, "Keep it."),
        ]

    def next(self, outcome: Outcome) -> list[Message] | None:
        self.seen.append(outcome)
        return [Message(Role.USER, "Again.")] if len(self.seen) == 1 else None

    def reward(self, outcome: Outcome) -> Reward:
        finals = [each.final for each in self.seen]
        right = finals == ["1 kept", "2 kept"]
        return Reward(float(right), {"right": float(right)}, right)

    def gold(self, effort: Effort) -> None:
        return None


def keeps(prompt: str) -> str:
    """Calls the tool, then says what it said."""
    last = prompt.removesuffix("<|start|>assistant").rsplit("<|start|>", 1)[-1]
    if last.startswith("functions.keep"):
        return final(last.split("<|message|>")[1].removesuffix("<|end|>"))
    return thought("I keep it.") + call("keep", "{}")


@pytest.mark.parametrize("verbatim", [True, False])
def test_two_questions_with_a_stateful_tool(llm: LLM, verbatim: bool) -> None:
    store = Store()
    engine = ScriptedEngine(llm.tokenizer, keeps)
    asks = [Ask(partial(TwoQuestions, store), effort, group=n) for n, effort in enumerate(Effort)]
    manner = Manner(verbatim=verbatim)
    samples = [*sample_many(engine, llm.tokenizer, asks, PARAMS, samples=2, manner=manner)]
    assert sorted((s.group, s.index) for s in samples) == [(g, i) for g in range(3) for i in (0, 1)]
    assert len(set(store.keys)) == len(store.closed) == 6, "each sample has its own, and ends it"
    for sample in samples:
        assert (sample.reward.value, sample.reward.correct, sample.reason) == (1.0, True, "stop")
        assert sample.counts.turns == sample.counts.calls == 2
        assert sample.counts.analysis > 0 and sample.counts.failures == 0
        assert [m.text for m in sample.messages if m.role is Role.USER] == ["Again."]
        assert "kept" in sample.messages[-1].text
        first, second = sample.segments  # reasoning is dropped at the second question
        assert [piece.is_sampled for piece in first.pieces] == [True, False, True]
        again = llm.tokenizer.decode(second.prompt)
        assert "I keep it." in llm.tokenizer.decode(first.ids) and "I keep it." not in again
        assert "1 kept<|end|><|start|>user<|message|>Again." in again
        assert sum(map(sum, (s.sampled for s in sample.segments))) == sample.counts.sampled


def test_without_reasoning_a_further_turn_goes_on(llm: LLM) -> None:
    """Nothing is dropped and no stop token changes, so all of it is one segment."""

    def says(prompt: str) -> str:
        return keeps(prompt).replace(thought("I keep it."), "").replace("<|return|>", "<|end|>")

    ask = Ask(partial(TwoQuestions, Store()), Effort.LOW)
    engine = ScriptedEngine(llm.tokenizer, says)
    (sample,) = sample_many(engine, llm.tokenizer, [ask], PARAMS)
    (segment,) = sample.segments
    drawn = [piece.is_sampled for piece in segment.pieces]
    assert drawn == [True, False] * 3 + [True] and sample.reward.value == 1.0


def test_together_as_alone(llm: LLM) -> None:
    """More conversations than run at once, prompts of different lengths."""
    params = llm.params(temperature=1, seed=3)
    manner = Manner(Limits(12))
    asks = [
        Ask(partial(Given, asked("37 + 48? " * (n + 1))), Effort.LOW, group=n, seed=n)
        for n in range(5)
    ]

    def answers(some: Sequence[Ask], at_once: int) -> dict[tuple[int, int], list[Any]]:
        engine = Engine(llm.model, capacity=2048, max_running=at_once)
        found = sample_many(
            engine, llm.tokenizer, some, params, samples=3, at_once=at_once, manner=manner
        )
        ids = {}
        for each in found:
            assert each.counts.sampled <= 12 and each.reward.value is None
            ids[each.group, each.index] = [segment.ids for segment in each.segments]
        return ids

    together = answers(asks, 4)
    assert sorted(together) == [(n, i) for n in range(5) for i in range(3)]
    alone: dict[tuple[int, int], list[Any]] = {}
    for ask in asks:
        alone |= answers([ask], 1)
    assert together == alone
    assert len({str(ids) for ids in alone.values()}) == 15, "samples of a group differ"


def test_a_group_shares_its_prompt_and_no_random_numbers(llm: LLM) -> None:
    engine = ScriptedEngine(llm.tokenizer, keeps)
    asks = [Ask(partial(TwoQuestions, Store()), Effort.LOW, group=n, seed=7 + n) for n in range(2)]
    list(sample_many(engine, llm.tokenizer, asks, PARAMS, samples=3, manner=Manner(version=4)))
    drawn = [(each["params"].seed, each["stream"]) for each in engine.submitted]
    assert len(set(drawn)) == len(drawn) == 24, "later requests of a sample draw others, too"
    firsts = [each for each in engine.submitted if each["stream"] < 3]
    assert [each["sample_of"] is None for each in firsts] == [True, False, False] * 2
    assert {each["cache_salt"] for each in engine.submitted} == {"4"}


def test_environments_of_one_ask_must_ask_the_same(llm: LLM) -> None:
    texts = iter(["one", "two"])
    ask = Ask(lambda: Given(asked(next(texts))), Effort.LOW, group=5, task="odd")
    engine = ScriptedEngine(llm.tokenizer, lambda prompt: final("x"))
    with pytest.raises(DataError, match=r"group 5 \(odd\) ask different things"):
        list(sample_many(engine, llm.tokenizer, [ask], PARAMS, samples=2))


# ---- what goes wrong ----


@dataclass
class One:
    """Asks once; a right answer is "ok"."""

    call: Callable[[], ToolResult]

    @property
    def tools(self) -> list[Any]:
        store = Store()
        one = self.call

        class Session(StoreSession):
            def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
                return one()

        store.session = lambda key: Session(store)  # type: ignore[method-assign]
        return [store]

    def prompt(self, effort: Effort, system: SystemContent | None = None) -> list[Message]:
        return TwoQuestions(Store()).prompt(effort, system)

    def next(self, outcome: Outcome) -> None:
        return None

    def reward(self, outcome: Outcome) -> Reward:
        return Reward(float(outcome.final == "ok"))

    def gold(self, effort: Effort) -> None:
        return None


def one_sample(
    llm: LLM,
    says: Callable[[str], str],
    environment: Callable[[], Any],
    manner: Manner | None = None,
    **change: Any,
) -> Sample:
    engine = ScriptedEngine(llm.tokenizer, says)
    vars(engine).update(change)
    (sample,) = sample_many(
        engine, llm.tokenizer, [Ask(environment, Effort.LOW)], PARAMS, manner=manner
    )
    return sample


def test_a_tool_that_breaks_fails_its_sample_only(llm: LLM) -> None:
    def breaks() -> ToolResult:
        raise RuntimeError("gone")

    def exits() -> ToolResult:
        raise SystemExit(3)

    def refuses() -> ToolResult:
        raise ToolError("not today")

    engine = ScriptedEngine(llm.tokenizer, keeps)
    calls = [breaks, exits, refuses, lambda: ToolResult("ok")]
    asks = [Ask(partial(One, each), Effort.LOW, group=n) for n, each in enumerate(calls)]
    found = {s.group: s for s in sample_many(engine, llm.tokenizer, asks, PARAMS)}
    assert [found[n].reason for n in range(4)] == ["failed", "failed", "stop", "stop"]
    assert [found[n].reward.value for n in range(4)] == [None, None, 0.0, 1.0]
    assert found[2].outcome.final == "error: not today", "that is for the model to read"
    assert found[2].counts.failures == 1 and "keep" in found[0].reward.why
    assert found[0].segments, "what was sampled is kept"


def test_a_tool_that_hangs_is_given_up(llm: LLM) -> None:
    never = threading.Event()

    def hangs() -> ToolResult:
        never.wait()
        return ToolResult("late")

    engine = ScriptedEngine(llm.tokenizer, keeps)
    asks = [
        Ask(partial(One, hangs), Effort.LOW, group=0),
        Ask(partial(One, lambda: ToolResult("ok")), Effort.LOW, group=1),
    ]
    order = list(sample_many(engine, llm.tokenizer, asks, PARAMS, manner=Manner(seconds=0.3)))
    assert [(s.group, s.reason) for s in order] == [(1, "stop"), (0, "failed")]
    assert "took too long" in order[1].reward.why
    never.set()


@pytest.mark.parametrize("part", ["next", "reward"])
def test_an_environment_that_breaks_fails_its_sample(
    llm: LLM, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Any:
        raise KeyError("x")

    monkeypatch.setattr(One, part, breaks)
    sample = one_sample(llm, keeps, partial(One, lambda: ToolResult("ok")))
    assert sample.reward.value is None and "KeyError" in sample.reward.why
    assert sample.reason == ("failed" if part == "next" else "stop")


def test_an_environment_that_cannot_begin_fails_its_sample_only(llm: LLM) -> None:
    class Silent(One):
        def prompt(self, effort: Effort, system: SystemContent | None = None) -> list[Message]:
            raise ValueError("no words")

    class Leaves(One):
        @property
        def tools(self) -> list[Any]:
            raise SystemExit(2)

    made: list[Callable[[], Any]] = [
        lambda: {}["missing"],
        partial(Silent, lambda: ToolResult("ok")),
        partial(Leaves, lambda: ToolResult("ok")),
        partial(One, lambda: ToolResult("ok")),
    ]
    asks = [Ask(each, Effort.LOW, group=n) for n, each in enumerate(made)]
    engine = ScriptedEngine(llm.tokenizer, keeps)
    found = {s.group: s for s in sample_many(engine, llm.tokenizer, asks, PARAMS)}
    assert [found[n].reason for n in range(4)] == ["failed", "failed", "failed", "stop"]
    assert found[1].reward.why == "ValueError: no words"
    alone = list(sample_many(engine, llm.tokenizer, asks[:1], PARAMS, samples=2))
    assert [sample.index for sample in alone] == [0, 1]


@pytest.mark.parametrize(
    ("worth", "value"), [(None, None), (1.0, 1.0), (True, 1.0), (Reward(float("nan")), None)]
)
def test_whatever_an_environment_returns_ends_its_sample(
    llm: LLM, worth: Any, value: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(One, "reward", lambda *_: worth)
    sample = one_sample(llm, keeps, partial(One, lambda: ToolResult("ok")))
    assert sample.reason == "stop"
    assert sample.reward.value == value


def test_what_is_said_must_be_messages(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(One, "next", lambda *_: "Again.")
    sample = one_sample(llm, keeps, partial(One, lambda: ToolResult("ok")))
    assert sample.reason == "failed"
    assert "must return messages" in sample.reward.why


def test_how_answers_end(llm: LLM) -> None:
    ok = partial(One, lambda: ToolResult("ok"))
    length = len(llm.tokenizer.encode_with_specials(thought("I keep it.") + call("keep", "{}")))

    def reason(says: Callable[[str], str] = keeps, most: int | None = None, **change: Any) -> str:
        return one_sample(llm, says, ok, Manner(Limits(most, rounds=2)), **change).reason

    assert reason() == "stop"
    assert reason(most=length - 1) == "length"
    assert reason(most=length) == "budget", "none was left to read a result with"
    assert reason(lambda prompt: call("keep", "{}")) == "tool_rounds"
    assert reason(lambda prompt: call("give", "{}")) == "invalid"
    assert reason(lambda prompt: "<|channel|>analysis<|message|>So.<|return|>") == "invalid"


def test_the_context_may_be_full(llm: LLM) -> None:
    """Before a result can be read, or in the middle of an answer; what was said is kept."""
    long = "1 kept " * 300
    environment = partial(One, lambda: ToolResult(long))
    engine = ScriptedEngine(llm.tokenizer, keeps)
    engine.longest = 1000
    (sample,) = sample_many(engine, llm.tokenizer, [Ask(environment, Effort.LOW)], PARAMS)
    assert sample.reason == "context" and len(sample.segments) == 1
    assert all(piece.is_sampled for piece in sample.segments[0].pieces)
    short = ScriptedEngine(llm.tokenizer, lambda prompt: final("and so on " * 400))
    short.longest = 1000
    ask = Ask(partial(Given, asked("Talk.")), Effort.LOW)
    manner = Manner(Limits(5000))
    (sample,) = sample_many(short, llm.tokenizer, [ask], PARAMS, manner=manner)
    assert sample.reason == "context"


def test_a_user_speaks_so_often_and_no_more(llm: LLM) -> None:
    sample = one_sample(llm, keeps, partial(TwoQuestions, Store()), Manner(turns=1))
    assert (sample.reason, sample.reward.value, sample.counts.turns) == ("budget", 0.0, 1)


def test_a_prompt_that_does_not_fit(llm: LLM) -> None:
    ask = Ask(partial(Given, asked("apple " * llm.config.max_context_length)), Effort.LOW)
    with pytest.raises(RequestError, match="the context holds"):
        list(sample_many(Engine(llm.model), llm.tokenizer, [ask], llm.params()))


def test_what_the_engine_fails_with_is_raised(llm: LLM) -> None:
    store = Store()
    engine = ScriptedEngine(llm.tokenizer, keeps)
    answers = sample_many(
        engine, llm.tokenizer, [Ask(partial(TwoQuestions, store), Effort.LOW)], PARAMS
    )
    engine.step = lambda: engine.failed.update({0: FloatingPointError("nan")}) or []  # type: ignore
    with pytest.raises(FloatingPointError):
        next(answers)
    assert engine.aborted == [0]


def test_sessions_end_with_a_caller_who_stops_asking(llm: LLM) -> None:
    store = Store()
    engine = ScriptedEngine(
        llm.tokenizer, lambda prompt: keeps(prompt) if "Again" not in prompt else final("x" * 99)
    )
    asks = [Ask(partial(TwoQuestions, store), Effort.LOW)]
    asks.append(Ask(partial(Given, asked("Hi")), Effort.LOW, group=1))
    answers = sample_many(engine, llm.tokenizer, asks, PARAMS)
    assert next(answers).group == 1
    answers.close()  # type: ignore[attr-defined]
    assert len(store.keys) == len(store.closed) == 1


def test_chores_are_collected_given_up_and_never_mixed() -> None:
    now = 0.0
    chores = Chores(lambda: now)
    hold = threading.Event()
    chores.start(1, hold.wait, 5.0)
    chores.start(2, lambda: "done", 5.0)
    (done,) = chores.done(wait=True)
    assert (done.key, done.value, done.error) == (2, "done", None)
    assert chores.done(wait=False) == [] and len(chores) == 1
    now = 6.0
    (late,) = chores.done(wait=True)
    assert late.key == 1 and isinstance(late.error, TimeoutError) and not len(chores)
    hold.set()  # what comes too late is nobody's
    chores.start(1, threading.Event().wait, math.inf)
    chores.start(2, lambda: "done", 5.0)
    assert [done.key for done in chores.done(wait=True)] == [2]
    now = math.inf
    assert [done.key for done in chores.done(wait=True)] == [1]
    chores.start(1, lambda: 1 / 0, 5.0)
    (failed,) = chores.done(wait=True)
    assert isinstance(failed.error, ZeroDivisionError) and chores.done(wait=True) == []
