"""Sessions of tools: opened once an answer and key, called with and without an event loop; whatever
a tool does, there is a result.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ossia.errors import ToolError
from ossia.harmony import FunctionTool, ToolNamespace
from ossia.tools import PythonFunction, SessionKey, Sessions, ToolResult, sessions
from ossia.tools.kinds import BROWSER, KINDS, WIRE_TYPES
from ossia.tools.protocol import by_wire_type


class Counter:
    """Counts its calls, for every key by itself."""

    kind = BROWSER
    namespace = ToolNamespace("counter", "Counts.", (FunctionTool("next"),))

    def __init__(self) -> None:
        self.counts: dict[SessionKey, int] = {}
        self.opened = 0
        self.closed = 0

    def session(self, key: SessionKey) -> CounterSession:
        self.opened += 1
        return CounterSession(self, key)


class CounterSession:
    def __init__(self, counter: Counter, key: SessionKey) -> None:
        self.counter = counter
        self.key = key
        self.meeting = asyncio.Event()

    def action(self, function: str, text: str) -> None:
        return None

    async def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        if text == "meet":  # waits until it is called again
            await self.meeting.wait()
        self.meeting.set()
        if text == "hang":
            await asyncio.sleep(3600)
        if text == "fail":
            raise ToolError("no more numbers")
        if text == "break":
            raise KeyError(text)
        if text == "exit":
            raise SystemExit(3)
        self.counter.counts[self.key] = self.counter.counts.get(self.key, 0) + 1
        return ToolResult(str(self.counter.counts[self.key]))

    async def close(self) -> None:
        self.counter.closed += 1


def test_a_key_is_its_own_state() -> None:
    counter = Counter()
    alice, bob = SessionKey("alice", "c"), SessionKey("bob", "c")
    for key, expected in ((alice, "1"), (bob, "1"), (alice, "2")):
        opened = Sessions(key)
        assert [r.text for r in opened.call_all([(counter, "next", "")])] == [expected]
        opened.close_now()
    assert counter.opened == counter.closed == 3


def test_a_session_is_opened_once() -> None:
    counter = Counter()

    async def run() -> None:
        opened = Sessions(SessionKey())
        texts = [(await opened.call(counter, "next", "")).text for _ in range(2)]
        await opened.close()
        assert texts == ["1", "2"] and counter.opened == counter.closed == 1

    asyncio.run(run())


def test_calls_wait_side_by_side_and_results_keep_their_order() -> None:
    opened = Sessions(SessionKey())
    counter = Counter()
    results = opened.call_all([(counter, "next", "meet"), (counter, "next", "")])
    assert sorted(result.text for result in results) == ["1", "2"]
    assert results[0].text == "2", "the first call ended last"


def test_a_python_function_runs_in_the_callers_thread() -> None:
    seen: list[threading.Thread] = []

    def note(text: str) -> str:
        seen.append(threading.current_thread())
        return text

    tool = PythonFunction(FunctionTool("note"), note)
    assert Sessions(SessionKey()).call_all([(tool, "note", "hi")]) == [ToolResult("hi")]
    assert seen == [threading.current_thread()]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fail", "error: no more numbers"),
        ("break", "error: the tool failed"),
        ("exit", "error: the tool failed"),
        ("hang", "error: the tool did not answer within 0.01 seconds"),
    ],
)
def test_there_is_always_a_result(text: str, told: str) -> None:
    opened = Sessions(SessionKey(), call_seconds=0.01)
    (result,) = opened.call_all([(Counter(), "next", text)])
    assert (result.text, result.failed) == (told, True)

    async def run() -> ToolResult:
        return await opened.call(Counter(), "next", text)

    assert asyncio.run(run()) == result


def test_kinds() -> None:
    """A type of the wire means one kind."""
    assert len(WIRE_TYPES) == sum(len(kind.wire_types) for kind in KINDS)
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    counter = Counter()
    assert by_wire_type([counter]) == dict.fromkeys(BROWSER.wire_types, counter)


@pytest.mark.parametrize("waits", [True, False])
def test_a_session_that_does_not_close_harms_no_other(
    caplog: pytest.LogCaptureFixture, waits: bool
) -> None:
    class Stuck(CounterSession):
        async def close(self) -> None:
            raise OSError("the socket is gone")

    class StuckAtOnce(Stuck):
        def close(self) -> None:  # type: ignore[override]
            raise OSError("the socket is gone")

    broken, counter = Counter(), Counter()
    broken.session = lambda key: (Stuck if waits else StuckAtOnce)(broken, key)  # type: ignore[method-assign]
    opened = Sessions(SessionKey())
    calls = [(broken, "next", ""), (counter, "next", "")]
    assert [r.text for r in opened.call_all(calls)] == ["1", "1"]
    opened.close_now()
    assert counter.closed == 1 and "the socket is gone" in caplog.text
    opened.call_all(calls)
    asyncio.run(opened.close())
    assert counter.closed == 2


def test_a_session_that_takes_too_long_to_close_is_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(CounterSession):
        async def close(self) -> None:
            await asyncio.sleep(3600)

    monkeypatch.setattr(sessions, "CLOSE_SECONDS", 0.01)
    slow, counter = Counter(), Counter()
    slow.session = lambda key: Slow(slow, key)  # type: ignore[method-assign]
    opened = Sessions(SessionKey())
    calls = [(slow, "next", ""), (counter, "next", "")]
    opened.call_all(calls)
    opened.close_now()
    opened.call_all(calls)
    asyncio.run(opened.close())
    assert counter.closed == 2 and caplog.text.count("did not close") == 2


def test_a_function_that_exits_does_not_end_the_program() -> None:
    def leave(text: str) -> str:
        raise SystemExit(text)

    tool = PythonFunction(FunctionTool("leave"), leave)
    (result,) = Sessions(SessionKey()).call_all([(tool, "leave", "now")])
    assert result == ToolResult("error: the tool failed", failed=True)


class Asking(Counter):
    """Its calls ask something in the thread that waits for them."""

    def __init__(self, question: Callable[[], object]) -> None:
        super().__init__()
        self.question = question

    def session(self, key: SessionKey) -> Any:
        asker = super().session(key)

        async def ask(function: str, text: str, deadline: float | None) -> ToolResult:
            return ToolResult(str(await sessions.in_waiting_thread(self.question)))

        asker.call = ask  # type: ignore[method-assign]
        return asker


def test_questions_are_asked_in_the_thread_that_waits() -> None:
    def who() -> str:
        return threading.current_thread().name

    asking = Asking(who)
    (result,) = Sessions(SessionKey()).call_all([(asking, "next", "")])
    assert result.text == who()
    # without such a thread, in one that holds up nobody
    on_loop = asyncio.run(Sessions(SessionKey()).call(asking, "next", ""))
    assert on_loop.text != who()


@pytest.mark.parametrize("error", [ToolError("no"), StopIteration("over"), ValueError("x")])
def test_a_question_that_fails_is_a_result(error: Exception) -> None:
    def fails() -> None:
        raise error

    (result,) = Sessions(SessionKey()).call_all([(Asking(fails), "next", "")])
    assert result.failed and result.text in ("error: no", "error: the tool failed")


def test_an_interrupted_call_has_a_result_and_the_others_too() -> None:
    counter = Counter()
    used = Sessions(SessionKey())
    first = counter.session(used.key)
    begun = first.meeting
    used._open[id(counter)] = first

    def interrupt() -> None:
        while not begun.is_set() or len(used._running) < 2:
            time.sleep(0.001)
        pressed.append(used.interrupt())
        pressed.append(used.interrupt())

    pressed: list[bool] = []
    presser = threading.Thread(target=interrupt)
    presser.start()
    results = used.call_all([(counter, "next", ""), (counter, "next", "hang")])
    presser.join()
    assert pressed == [True, False], "the second time they had been asked before"
    assert results[0] == ToolResult("1") and results[1].failed
    assert "the user interrupted this call" in results[1].text
    assert not used.interrupt(), "nothing runs"
    assert used.call_all([(counter, "next", "")]) == [ToolResult("2")]


def test_there_is_one_loop_whoever_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions._loop.cache_clear()
    new = asyncio.new_event_loop

    def slow() -> asyncio.AbstractEventLoop:
        time.sleep(0.02)  # so that others ask meanwhile
        return new()

    monkeypatch.setattr(asyncio, "new_event_loop", slow)
    with ThreadPoolExecutor(8) as pool:
        loops = list(pool.map(lambda _: sessions.background_loop(), range(8)))
    assert len(set(loops)) == 1
