"""The real engine under churn: random arrivals, aborts, priorities, samples of one prompt, little
memory. Every answer that comes to its end has the tokens of the same request alone, and no page is
lost.
"""

from __future__ import annotations

import random

import pytest

import ossia
from ossia.config import ModelConfig
from ossia.engine import Engine, SamplingParams
from ossia.engine.budget import make_tables, page_bytes, streams_within, tokens_within
from ossia.errors import PromptTooLong, RequestError
from ossia.llm import LLM

Asked = tuple[list[int], SamplingParams, int]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return ossia.load("nano")


def requests(llm: LLM, count: int, seed: int) -> list[Asked]:
    """Prompts that share beginnings, some with repetitions that invite guesses; parameters of all
    sorts.
    """
    rng = random.Random(seed)
    texts = [
        "What is 37 + 48? ",
        "Tom has 3 apples. Anna has 5. ",
        "one two three one two three one two ",
    ]
    stems = [llm.tokenizer.encode(text * rng.randint(1, 6)) for text in texts]
    asked = []
    for _ in range(count):
        prompt = rng.choice(stems)[: rng.randint(1, 60)] + [
            rng.randrange(2000) for _ in range(rng.randint(0, 9))
        ]
        params = SamplingParams(
            temperature=rng.choice([0.0, 0.0, 0.8]), top_p=rng.choice([1.0, 0.9]),
            seed=rng.randrange(100),
            frequency_penalty=rng.choice([0.0, 0.5]), max_tokens=rng.randint(1, 24),
        )  # fmt: skip
        asked.append((prompt, params, rng.randrange(3)))
    return asked


def alone(llm: LLM, asked: Asked) -> list[tuple[int, float]]:
    engine = Engine(llm.model, prefix_cache=False, speculate=False)
    engine.submit(asked[0], asked[1], stream=asked[2])
    found = []
    while engine.has_work():
        found += [(token.token_id, token.logprob) for token in engine.step()]
    return found


@pytest.mark.parametrize(
    ("seed", "ahead"), [(0, False), (1, False), (2, False), (0, True), (1, True)]
)
def test_answers_are_those_of_requests_alone(llm: LLM, seed: int, ahead: bool) -> None:
    """`ahead`: steps are begun before the tokens of the last one are read."""
    rng = random.Random(seed)
    waiting = requests(llm, 40, seed)
    engine = Engine(
        llm.model,
        capacity=rng.choice([128, 256]),
        max_batch_tokens=rng.choice([16, 48]),
        max_running=6,
        ahead=ahead,
        speculate=not ahead or seed == 0,  # while there are guesses, nothing is begun early
    )
    asked: dict[int, Asked] = {}
    answers: dict[int, list[tuple[int, float]]] = {}
    finished: set[int] = set()
    while waiting or engine.has_work():
        while waiting and rng.random() < 0.4:
            one = waiting.pop()
            id = engine.submit(one[0], one[1], stream=one[2], priority=rng.randrange(3))
            asked[id], answers[id] = one, []
            if rng.random() < 0.2:  # another sample of the same prompt
                other = (one[0], one[1], one[2] + 1)
                sample = engine.submit(other[0], other[1], stream=other[2], sample_of=id)
                asked[sample], answers[sample] = other, []
        for token in engine.step():
            answers[token.request_id].append((token.token_id, token.logprob))
            if token.finish_reason is not None:
                finished.add(token.request_id)
        engine._scheduler.check()
        if rng.random() < 0.03 and asked.keys() - finished:
            gone = rng.choice(sorted(asked.keys() - finished))
            engine.abort(gone)
            del asked[gone]
            finished.discard(gone)
    assert finished == asked.keys() and len(finished) > 30 and not engine.failed
    for id, one in asked.items():
        assert answers[id] == alone(llm, one), f"request {id} of seed {seed}"
    assert engine.prefix_cache is not None
    engine.prefix_cache.clear()
    pools = engine._scheduler.tables.pools.values()
    assert all(pool.free == pool.total for pool in pools), "a page is lost"


def test_a_fork_of_a_preempted_request_runs(llm: LLM) -> None:
    engine = Engine(llm.model, max_running=1)
    prompt, params = list(range(5, 45)), SamplingParams(temperature=0, max_tokens=60)
    first = engine.submit(prompt, params)
    found: dict[int, list[int]] = {first: []}

    def step() -> None:
        for token in engine.step():
            found.setdefault(token.request_id, []).append(token.token_id)

    while len(found[first]) < 50:
        step()
    engine.submit([1, 2, 3], SamplingParams(temperature=0, max_tokens=2), priority=-10)
    step()
    sample = engine.submit(prompt, params, sample_of=first)
    while engine.has_work():
        step()
    assert found[sample] == found[first]


def test_aborting_what_is_being_read_ends_it(llm: LLM) -> None:
    engine = Engine(llm.model)
    tokens = engine.generate([1, 2, 3], SamplingParams(temperature=0, max_tokens=50))
    first = next(tokens)
    engine.abort(first.request_id)
    assert list(tokens) == []


def test_more_tokens_than_memory_holds_are_refused_with_the_numbers(llm: LLM) -> None:
    engine = Engine(llm.model, capacity=64)
    with pytest.raises(RequestError, match=r"40 tokens and 500 are asked for; .* holds 64"):
        engine.submit([1] * 40, SamplingParams(max_tokens=500))
    assert len(list(engine.generate([1] * 40, SamplingParams(temperature=0, seed=1)))) == 24


def test_one_request_can_have_what_the_memory_holds(llm: LLM) -> None:
    context = llm.model.config.max_context_length
    assert Engine(llm.model).longest == context
    engine = Engine(llm.model, capacity=64)
    assert engine.longest == 64
    with pytest.raises(PromptTooLong) as caught:
        engine.submit([1] * 64, SamplingParams())
    assert (caught.value.tokens, caught.value.most, caught.value.field) == (64, 64, "prompt")
    small = Engine(llm.model, kv_memory=1 << 20)
    assert 1 < small.longest < context
    assert len(list(small.generate([1] * (small.longest - 1), SamplingParams()))) == 1


def test_little_memory_is_for_few_requests() -> None:
    config = ModelConfig.preset("gpt-oss-20b")
    memory = 64 << 20
    running = streams_within(config, memory, "bf16", 64, 1024)
    assert running < 8 and tokens_within(config, memory, "bf16", running, 1024) > 500
    for kind in ("bf16", "int8", "float32"):
        tokens = tokens_within(config, memory, kind, running, 1024)
        tables = make_tables(config, tokens, running, 1024)
        costs = page_bytes(config, kind)
        assert sum(pool.total * costs[window] for window, pool in tables.pools.items()) <= memory


def test_steps_are_begun_before_tokens_are_read(llm: LLM) -> None:
    """All but the first and the last, and no row of a request that has ended is read."""
    engine = Engine(llm.model, capacity=256, ahead=True, speculate=False)
    events: list[str] = []
    run, take = engine._runner.run, engine._take

    def spied(*args, **options):  # type: ignore[no-untyped-def]
        events.append("run")
        return run(*args, **options)

    def taken(*args, **options):  # type: ignore[no-untyped-def]
        events.append("take")
        return take(*args, **options)

    engine._runner.run, engine._take = spied, taken  # type: ignore[method-assign]
    engine.submit([5, 6, 7], SamplingParams(temperature=0, max_tokens=4))
    while engine.has_work():
        engine.step()
    assert events == ["run", "run", "take", "run", "take", "run", "take", "take"]
    events.clear()
    other = next(engine.generate([5, 6, 7], SamplingParams(temperature=0, max_tokens=1)))
    stop = SamplingParams(temperature=0, max_tokens=9, stop_ids=frozenset({other.token_id}))
    events.clear()
    engine.submit([5, 6, 7], stop)
    assert [token.finish_reason for token in engine.step()] == ["stop"]
    assert events == ["run", "run", "take"]
    assert not engine.has_work() and engine.step() == []
    engine._scheduler.check()
    assert engine.prefix_cache is not None
    engine.prefix_cache.clear()
    assert all(pool.free == pool.total for pool in engine._scheduler.tables.pools.values())
