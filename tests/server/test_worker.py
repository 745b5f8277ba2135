"""The engine's thread: tokens reach who waits for them, what is closed is aborted, failures reach
everybody.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

import pytest

from ossia.engine import Engine
from ossia.engine.request import PromptToken, SampledToken, SamplingParams
from ossia.errors import RequestError
from ossia.llm import LLM
from ossia.server import ScriptedEngine
from ossia.server import worker as module
from ossia.server.worker import EngineStopped, EngineWorker, Samples

STOP = 9999
PARAMS = SamplingParams(stop_ids=frozenset({STOP}))
ENDLESS = [[7] * 1_000_000]


class Counted(ScriptedEngine):
    """Counts aborts that meant something."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.aborted: list[int] = []

    def abort(self, request_id: int) -> None:
        if request_id in self._running:
            self.aborted.append(request_id)
        super().abort(request_id)


@asynccontextmanager
async def started(engine: ScriptedEngine | Engine) -> AsyncIterator[EngineWorker]:
    worker = EngineWorker(engine)
    worker.start()
    try:
        yield worker
    finally:
        await asyncio.to_thread(worker.stop)


async def ids(
    worker: EngineWorker, prompt: Sequence[int], params: SamplingParams = PARAMS
) -> list[int]:
    return [token.token_id async for token in worker.generate(prompt, params)]


async def idle(worker: EngineWorker) -> None:
    """Until nothing runs any more."""
    async with asyncio.timeout(5):
        while worker.stats().running:
            await asyncio.sleep(0.005)


def test_many_streams_at_once_each_get_their_own() -> None:
    def script(prompt: list[int]) -> list[int]:
        return [prompt[0] * 1000 + n for n in range(prompt[0] % 50 + 1)]

    async def run() -> None:
        async with started(ScriptedEngine(script)) as worker:
            answers = await asyncio.gather(*(ids(worker, [n + 1]) for n in range(200)))
            assert answers == [script([n + 1]) for n in range(200)]
            await idle(worker)

    asyncio.run(run())


def test_closing_a_stream_aborts_its_request_alone() -> None:
    async def run() -> None:
        engine = Counted(ENDLESS, delay=0.001)
        async with started(engine) as worker, aclosing(worker.generate([1], PARAMS)) as other:
            await anext(other)
            async with aclosing(worker.generate([1], PARAMS)) as mine:
                await anext(mine)
                await anext(mine)
            async with asyncio.timeout(5):
                while not engine.aborted:
                    await asyncio.sleep(0.005)
            assert engine.aborted == [1]
            await anext(other)
        assert not worker._streams

    asyncio.run(run())


def test_who_is_cancelled_while_waiting_leaves_nothing_behind() -> None:
    async def run() -> None:
        engine = Counted(ENDLESS, delay=0.002)
        async with started(engine) as worker:
            rng = random.Random(1)
            tasks = [asyncio.ensure_future(ids(worker, [n + 1])) for n in range(60)]
            while tasks:
                await asyncio.sleep(0.002)
                task = tasks.pop(rng.randrange(len(tasks)))
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await idle(worker)
            assert not worker._streams

    asyncio.run(run())


def test_what_the_engine_refuses_is_raised_and_others_go_on() -> None:
    async def run() -> None:
        async with started(ScriptedEngine([[5, STOP]])) as worker:
            with pytest.raises(RequestError):
                await ids(worker, [])
            assert await ids(worker, [1]) == [5, STOP]

    asyncio.run(run())


def test_a_request_that_fails_later_is_told() -> None:
    async def run() -> None:
        async with started(
            ScriptedEngine(lambda prompt: [] if prompt == [1] else [5, STOP])
        ) as worker:
            with pytest.raises(RequestError, match="script is empty"):
                await ids(worker, [1])
            assert await ids(worker, [2]) == [5, STOP]

    asyncio.run(run())


class Failing(ScriptedEngine):
    """Fails at a step."""

    steps = 0

    def step(self) -> list[SampledToken]:
        self.steps += 1
        if self.steps > 3:
            raise MemoryError("no memory for the batch")
        return super().step()


def test_an_engine_that_fails_is_told_to_everybody(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with started(Failing(ENDLESS, delay=0.002)) as worker:
            answers = await asyncio.gather(
                *(ids(worker, [1]) for _ in range(20)), return_exceptions=True
            )
            assert all(isinstance(answer, EngineStopped) for answer in answers)
            assert "no memory for the batch" in str(answers[0])
            assert not worker.is_alive
            async with asyncio.timeout(1):
                with pytest.raises(EngineStopped):
                    await ids(worker, [1])

    asyncio.run(run())
    assert "the engine failed" in caplog.text


def test_stopping_tells_who_still_waits() -> None:
    async def run() -> None:
        worker = EngineWorker(ScriptedEngine(ENDLESS, delay=0.001))
        worker.start()
        waiting = [asyncio.ensure_future(ids(worker, [1])) for _ in range(10)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(worker.stop)
        async with asyncio.timeout(2):
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, EngineStopped) for answer in answers)
        worker.stop()  # twice does no harm

    asyncio.run(run())


def test_nobody_waits_for_ever_while_it_stops() -> None:
    """Requests that arrive at any moment of the stopping."""

    async def run() -> None:
        for _ in range(40):
            worker = EngineWorker(ScriptedEngine([[5] * 3]))
            worker.start()
            stopper = threading.Thread(target=worker.stop)
            stopper.start()
            async with asyncio.timeout(60):
                found = await asyncio.gather(
                    *(ids(worker, [1]) for _ in range(20)), return_exceptions=True
                )
            assert all(one == [5] * 3 or isinstance(one, EngineStopped) for one in found)
            stopper.join()

    asyncio.run(run())


def test_it_must_have_been_started() -> None:
    async def run() -> None:
        with pytest.raises(EngineStopped):
            await ids(EngineWorker(ScriptedEngine([[5]])), [1])

    asyncio.run(run())


def test_a_loop_that_has_closed_is_no_reason_to_go_on() -> None:
    engine = Counted(ENDLESS, delay=0.001)
    worker = EngineWorker(engine)
    worker.start()
    loop = asyncio.new_event_loop()
    tokens = worker.generate([1], PARAMS)
    loop.run_until_complete(anext(tokens))
    loop.close()
    deadline = time.monotonic() + 5
    while not engine.aborted and time.monotonic() < deadline:
        time.sleep(0.005)
    assert engine.aborted == [0]
    assert asyncio.run(asyncio.wait_for(ids(worker, [1], SamplingParams(max_tokens=2)), 5)) == [
        7,
        7,
    ]
    worker.stop()
    with suppress(StopIteration):  # the generator of the loop that is gone
        tokens.aclose().send(None)


def test_samples_of_one_prompt_share_it(llm: LLM) -> None:
    async def run() -> None:
        engine = Engine(llm.model)
        async with started(engine) as worker:
            samples, params = Samples(), SamplingParams(max_tokens=8, seed=3)
            prompt = llm.tokenizer.encode("What is 37 + 48? " * 20)

            async def one(stream: int) -> list[int]:
                tokens = worker.generate(prompt, params, samples=samples, stream=stream)
                return [token.token_id async for token in tokens]

            answers = await asyncio.gather(*(one(n) for n in range(4)))
            assert len({tuple(answer) for answer in answers}) > 1
            await idle(worker)
            assert engine.stats().kv_used == 0.0

    asyncio.run(run())


def test_the_event_loop_is_woken_once_a_step() -> None:
    """However many streams have tokens."""

    async def run() -> None:
        async with started(ScriptedEngine([[5] * 20], delay=0.002)) as worker:
            loop, calls = asyncio.get_running_loop(), 0
            original = loop.call_soon_threadsafe

            def counting(*args: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                return original(*args, **options)  # type: ignore[arg-type]

            loop.call_soon_threadsafe = counting  # type: ignore[assignment, method-assign]
            await asyncio.gather(*(ids(worker, [1]) for _ in range(50)))
            assert calls < 60  # 20 steps, and a few more while requests came in

    asyncio.run(run())


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 2
    while any(thread.name == "ossia-engine" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "an engine's thread goes on"
        time.sleep(0.01)


# Weights that change


def test_prompts_of_batch_work_are_scored_when_nothing_else_is_there() -> None:
    """The chat's first, and no chunk while anybody's answer is not batch work."""
    scored: list[str] = []

    class Scoring(ScriptedEngine):
        def prompt_logprobs(
            self, prompt: Sequence[int], top: int = 0
        ) -> Iterator[list[PromptToken]]:
            def chunks() -> Iterator[list[PromptToken]]:
                for token in prompt:
                    scored.append("batch" if token < 100 else "chat")
                    yield [PromptToken(token, -0.5)]

            return chunks()

    class ByHand(EngineWorker):
        is_alive = True  # the test is its thread

    async def run() -> None:
        engine = Scoring(lambda prompt: [7] * 9 if prompt == [1] else [8] * 4)
        worker = ByHand(engine)
        watched = asyncio.gather(
            worker.prompt_logprobs([1, 2, 3], is_batch=True),
            worker.prompt_logprobs([4, 5], caller="b", is_batch=True),
            worker.prompt_logprobs([100, 101]),
            ids(worker, [1]),
        )
        await asyncio.sleep(0)
        worker._take_commands()
        for _ in range(9):
            worker._work()
        assert scored == ["chat"] * 2, "the answer took nine steps"
        while worker._has_work():
            worker._work()
        await watched
        assert scored[2:] == ["batch"] * 5

    asyncio.run(run())


@pytest.mark.anyio
async def test_no_answer_is_completed_with_weights_that_have_changed() -> None:
    """Nor begun; and who asks how the engine is learns why."""
    told: list[str] = []
    engine = ScriptedEngine([[7] * 20], delay=0.001)
    worker = EngineWorker(engine, lambda: told[0] if told else None)
    worker.start()
    try:
        assert len(await ids(worker, [1])) == 20
        tokens = []
        with pytest.raises(EngineStopped, match="the weights file w has changed"):
            async for token in worker.generate([1], PARAMS):
                tokens.append(token)
                told[:] = ["w has changed"]
        assert len(tokens) < 20 and not worker.is_alive
        with pytest.raises(EngineStopped):
            await ids(worker, [1])
    finally:
        worker.stop()


@pytest.mark.anyio
async def test_a_server_that_has_nothing_to_do_looks_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "WATCH", 0.01)
    told: list[str] = []
    worker = EngineWorker(ScriptedEngine([[7]]), lambda: told[0] if told else None)
    worker.start()
    await asyncio.sleep(0.03)
    assert worker.is_alive
    told.append("w has changed")
    async with asyncio.timeout(5):
        while worker.is_alive:
            await asyncio.sleep(0.01)
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "the weights file w has changed" in line.getMessage() and line.exc_info is None
    worker.stop()


def test_memory_is_given_back_when_nothing_has_run_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the heap last, when both have let go of what they kept."""
    said: list[str] = []
    monkeypatch.setattr(module.heap, "trim", lambda: said.append("heap"))

    class Resting(ScriptedEngine):
        def rest(self) -> None:
            said.append("engine")

    now = [0.0]
    engine = Resting([[5, STOP]])
    worker = EngineWorker(engine, at_rest=lambda: said.append("formats"), clock=lambda: now[0])
    now[0] = module.REST - 1
    worker._work()
    assert said == []
    engine.submit([1], PARAMS)
    worker._work()
    now[0] += module.REST
    worker._work()  # the last step, long as it took
    assert not engine.has_work()
    worker._work()
    assert said == [], "it has just been at work"
    for _ in range(2):  # whatever came that did not reach the engine
        now[0] += module.REST
        worker._work()
        worker._work()
        assert said == ["engine", "formats", "heap"]
        said.clear()
