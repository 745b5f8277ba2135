"""The scheduler on a fake model that checks every slot it sees: churn by the thousand, then one
behaviour at a time.
"""

from __future__ import annotations

import random

import pytest
from amounts import examples
from engine.fake_model import VOCAB, FakeEngine, all_free, answer, make_scheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.config import PAGE
from ossia.engine import scheduler as module
from ossia.engine.request import Request, SamplingParams
from ossia.engine.turns import AGEING, shares

CONFIGS: list[dict[str, object]] = [
    {"pages": {None: 40, 24: 30}},
    {"pages": {None: 40, 24: 30}, "cached": False},
    {"pages": {None: 60, 24: 24}, "budget": 20},
    {"pages": {None: 400, 24: 300}, "max_running": 16},
    {"pages": {None: 30, 7: 14, 40: 24}, "max_batch_tokens": 200},
    {"pages": {None: 40}, "max_batch_tokens": 5},
    {"pages": {33: 20}, "max_batch_tokens": 1, "max_running": 3},
    {"pages": {None: 26, 24: 3}, "max_batch_tokens": 48, "max_running": 4},
]


class Arrivals:
    """Random requests: known beginnings, answers gone on from, the same prompt several times,
    priorities, salts, callers.
    """

    def __init__(
        self, engine: FakeEngine, rng: random.Random, longest: int = 300, callers: str = "a"
    ) -> None:
        """Callers in capitals have batch work."""
        self.engine, self.rng, self.callers = engine, rng, callers
        self.longest = min(longest, engine.scheduler.most_tokens - 30)
        self.heads = [self.some(rng.randint(20, 150)) for _ in range(4)]
        self.ended: list[Request] = []

    def some(self, count: int) -> list[int]:
        return [self.rng.randrange(VOCAB) for _ in range(count)]

    def prompt(self) -> list[int]:
        if self.rng.random() < 0.4 and self.engine.done:
            turn = self.engine.done[self.rng.choice(list(self.engine.done)[-8:])]
            return [*turn.prompt, *turn.generated, *self.some(self.rng.randint(1, 20))][
                : self.longest
            ]
        head = self.rng.choice([[], *self.heads])
        return [*head, *self.some(self.rng.randint(1, self.rng.choice([3, 40, 200])))][
            : self.longest
        ]

    def arrive(self) -> None:
        rng, prompt = self.rng, self.prompt()
        limit = rng.randint(1, min(50, self.engine.scheduler.max_tokens_of(len(prompt))))
        priority, salt = rng.choice([0, 0, 0, 1, 2, -1]), rng.choice(["", "", "other"])
        parent = None
        caller = rng.choice(self.callers)
        is_batch = caller.isupper()
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            tokens = rng.randint(1, limit)
            request = self.engine.submit(prompt, tokens, priority, salt, parent, caller, is_batch)
            parent = parent or request


def churn(
    steps: int, seed: int, most_live: int = 20, callers: str = "a", **config: object
) -> FakeEngine:
    engine = FakeEngine(make_scheduler(**config), seed, drafts=0.3, aborts=0.01, stop=0)  # type: ignore[arg-type]
    arrivals = Arrivals(engine, random.Random(seed), callers=callers)
    for _ in range(steps):
        while len(engine.live) < most_live and arrivals.rng.random() < 0.4:
            arrivals.arrive()
        engine.step()
    engine.aborts = 0
    engine.run()
    assert all_free(engine.scheduler)
    return engine


@pytest.mark.parametrize("callers", ["a", "aaaab", "abcdefghijkl"])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_churn(config: dict[str, object], callers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 3 * PAGE)
    engine = churn(examples(500), 1, callers=callers, **config)
    # whoever asks for more than others waits longer for the last of it
    assert engine.longest_wait < (4 * AGEING + 500) * min(2, len(callers))


@settings(deadline=None, max_examples=examples(25))
@given(
    st.integers(0, 2**32),
    st.integers(12, 60),
    st.dictionaries(st.integers(1, 70), st.integers(6, 60), max_size=2),
    st.integers(1, 100),
    st.integers(1, 10),
    st.sampled_from([None, 0, 3, 30]),
    st.booleans(),
    st.sampled_from(["a", "ab", "abcdef", "A", "aB", "abCDE"]),
)
def test_churn_in_any_shape(
    seed: int,
    full: int,
    windows: dict[int, int],
    tokens: int,
    running: int,
    budget: int | None,
    cached: bool,
    callers: str,
) -> None:
    pages: dict[int | None, int] = {None: full, **windows}
    churn(
        60,
        seed,
        12,
        callers,
        pages=pages,
        max_batch_tokens=tokens,
        max_running=running,
        cached=cached,
        budget=budget,
    )


def test_ten_thousand_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 4 * PAGE)
    steps = examples(10_000)
    engine = churn(steps, 2, pages={None: 40, 24: 26})
    scheduler = engine.scheduler
    assert (
        scheduler.preemptions > steps / 100
        and scheduler.cache is not None
        and scheduler.cache.hits > steps / 20
    )
    assert engine.longest_wait < 4 * AGEING
    assert len(engine.done) > steps / 10


def test_nothing_starves_under_a_flood_of_better_priority() -> None:
    engine = FakeEngine(make_scheduler({None: 30, 24: 20}, max_batch_tokens=32, max_running=2))
    rng = random.Random(0)

    def flood() -> None:
        while len(engine.live) < 6:
            engine.submit([rng.randrange(VOCAB) for _ in range(90)], 10, priority=0)

    flood()
    low = engine.submit([3] * 100, 20, priority=2)
    while low.id not in engine.done:
        flood()
        engine.step()
    assert AGEING < engine.steps < 2 * AGEING + 150


def test_better_priority_goes_first_and_takes_the_place_of_what_runs() -> None:
    engine = FakeEngine(make_scheduler({None: 12, 24: 40}, max_running=4))
    old = [engine.submit([n] * 60, 30) for n in range(1, 4)]
    for _ in range(6):
        engine.step()
    urgent = engine.submit([9] * 120, 20, priority=-5)
    engine.step()
    assert urgent.computed > 0 and engine.scheduler.preemptions > 0
    engine.run()
    assert next(iter(engine.done)) == urgent.id and engine.done.keys() == {
        urgent.id,
        *(r.id for r in old),
    }


def test_the_first_in_rank_moves_in_every_step() -> None:
    engine = FakeEngine(make_scheduler({None: 40, 24: 40}, max_batch_tokens=2, max_running=3))
    for n in (1, 2):
        engine.submit([n], 60)
    engine.step()
    urgent = engine.submit([3] * 30, 5, priority=-1)
    for n in range(1, 30):
        step = engine.step()
        assert urgent.computed == n and len(step.scheduled) == 2
    engine.run()


def test_who_cannot_be_admitted_holds_nothing() -> None:
    engine = FakeEngine(make_scheduler({None: 10, 24: 20}, max_running=4))
    engine.submit([1] * 40, 1)
    engine.step()
    engine.submit([2] * 60, 40)
    engine.step()
    blocked = engine.submit([1] * 90, 10)  # the cache knows 32 of its tokens
    engine.step()
    assert blocked.computed == 0 and blocked.id not in engine.scheduler.tables.owners
    assert engine.scheduler.cache is not None and engine.scheduler.cache.hits == 0
    engine.run()


@pytest.mark.parametrize("cached", [True, False])
def test_a_request_as_long_as_memory_runs_whoever_else_is_there(cached: bool) -> None:
    scheduler = make_scheduler({None: 12, 24: 6}, max_batch_tokens=48, cached=cached)
    assert scheduler.most_tokens == 12 * PAGE
    assert scheduler.max_tokens_of(100) == 12 * PAGE - 99
    engine = FakeEngine(scheduler)
    for n in range(3):
        engine.submit([n, *[5] * 99], 12 * PAGE - 99)
        engine.submit([n] * 7, 5)
    with pytest.raises(AssertionError, match="never"):
        scheduler.add(Request(99, (1,) * 100, SamplingParams(), 12 * PAGE - 98))
    engine.run()
    assert len(engine.done) == 6


def test_pages_that_no_window_fits_into_limit_the_length_too() -> None:
    assert make_scheduler({None: 100, 24: 3}).most_tokens == 100 * PAGE
    assert make_scheduler({None: 100, 24: 2}).most_tokens == 2 * PAGE
    assert make_scheduler({24: 3}).max_tokens_of(10**6) > 10**6


def test_decoding_goes_on_while_prompts_are_read() -> None:
    engine = FakeEngine(make_scheduler({None: 200, 24: 100}, max_batch_tokens=40))
    first = engine.submit([1] * 5, 40)
    engine.step()
    engine.submit([2] * 300, 5)
    while engine.scheduler.has_work():
        known = len(first.generated)
        step = engine.step()
        if first.id in engine.live:
            assert len(first.generated) == known + 1 and step.scheduled[0].request is first
    assert len(engine.done) == 2


@pytest.mark.parametrize("base", [0.01, 0.06])
def test_steps_keep_to_the_latency_target_while_something_decodes(base: float) -> None:
    scheduler = make_scheduler(
        {None: 2000, 24: 300}, max_batch_tokens=1024, latency_target=0.25, cached=False
    )
    engine = FakeEngine(scheduler)
    rng = random.Random(3)

    def step() -> float:
        made = engine.step()
        decodes = all(work.count == 1 for work in made.scheduled)
        seconds = base + 0.004 * (made.tokens if not decodes else 0) * rng.uniform(0.95, 1.05)
        scheduler.observe(made, seconds)
        return seconds

    engine.submit([1] * 600, 1)
    assert step() > 1, "nothing decodes: the whole budget"
    long = engine.submit([4] * 10, 900)
    for _ in range(5):
        step()
    times = []
    for n in range(6):
        engine.submit([5 + n] * 900, 1)
    while len(engine.live) > 1 and long.id in engine.live:
        times.append(step())
    reading = times[2:-2]
    assert max(reading) < 0.25 * 1.15 and sum(reading) / len(reading) > 0.25 * 0.8


def test_prompts_progress_however_late_it_is() -> None:
    scheduler = make_scheduler({None: 200, 24: 100}, max_batch_tokens=1024, latency_target=1e-6)
    engine = FakeEngine(scheduler)
    engine.submit([1] * 5, 300)
    scheduler.observe(engine.step(), 1.0)
    prompt = engine.submit([2] * 200, 3)
    for n in range(1, 5):
        scheduler.observe(engine.step(), 1.0)
        assert prompt.computed == n * module.FEWEST_PROMPT_TOKENS


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 32, 33, 70])
@pytest.mark.parametrize("cached", [True, False])
def test_forks_share_the_prompt(size: int, cached: bool) -> None:
    engine = FakeEngine(make_scheduler({None: 100, 24: 100}, cached=cached))
    parent = (
        engine.submit([3, 4, 5, 6, 7, 8, 9] * 10, 12)
        if size == 70
        else engine.submit([3] * size, 12)
    )
    children = [engine.submit(parent.prompt, 12, parent=parent) for _ in range(4)]
    other = engine.submit([1, 2, 3], 12)
    tokens = 0
    while any(child.computed < size for child in children):
        tokens += sum(
            w.count
            for w in engine.step().scheduled
            if w.request is not other and not w.request.generated[1:]
        )
        if parent.generated and size > PAGE and children[0].computed >= size:
            runs = [engine.scheduler.tables.run(r.id, None).pages for r in (parent, *children)]
            assert all(run[: (size - 1) // PAGE] == runs[0][: (size - 1) // PAGE] for run in runs)
    assert tokens <= size + 4 + 1, "the prompt is computed once, and its last token once each"
    engine.run()
    assert len(engine.done) == 6 and all_free(engine.scheduler)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("cached", [True, False])
def test_forks_without_their_parent(steps: int, cached: bool) -> None:
    engine = FakeEngine(make_scheduler({None: 100, 24: 100}, max_batch_tokens=32, cached=cached))
    parent = engine.submit([3] * 70, 12)
    children = [engine.submit(parent.prompt, 12, parent=parent) for _ in range(3)]
    for _ in range(steps):
        engine.step()
    engine.abort(parent)
    before = engine.model.computed_tokens
    late = engine.submit(parent.prompt, 12, parent=parent)
    engine.run()
    generated = sum(len(r.generated) for r in (*children, late))
    assert engine.done.keys() == {r.id for r in (*children, late)}
    spent = engine.model.computed_tokens - before - generated
    assert spent <= (70 + 2 * PAGE if cached else 140), (
        "the prompt is not computed anew by every child"
    )


def test_forks_that_wait_give_way() -> None:
    engine = FakeEngine(make_scheduler({None: 8, 24: 16}, max_running=1, cached=False))
    parent = engine.submit([3] * 60, 60)
    children = [engine.submit(parent.prompt, 10, parent=parent) for _ in range(3)]
    engine.step()
    assert all(child.computed == 59 and child.parent is None for child in children)
    engine.run()
    assert len(engine.done) == 4 and engine.scheduler.preemptions == 0


def test_drafts_are_verified_in_one_step_and_cut_to_what_is_allowed() -> None:
    prompt = [4] * 20
    right = answer("", prompt, 40)
    engine = FakeEngine(make_scheduler({None: 100, 24: 100}, max_batch_tokens=24))
    request = engine.submit(prompt, 10)
    engine.step()
    assert request.generated == right[:1]
    request.draft = [*right[1:4], (right[4] + 1) % VOCAB, right[5]]
    step = engine.step()
    assert step.scheduled[0].count == 6 and step.scheduled[0].drafts == 5
    assert request.generated == right[:5] and request.waiting_tokens == 1
    request.draft = right[5:40]
    assert engine.step().scheduled[0].drafts == 4, (
        "ten tokens are allowed: five more, one of which the model adds"
    )
    assert engine.done[request.id].generated == right[:10]


def test_drafts_leave_prompts_and_others_their_share() -> None:
    engine = FakeEngine(make_scheduler({None: 100, 24: 100}, max_batch_tokens=44))
    decoding = [engine.submit([n] * 3, 50) for n in (1, 2)]
    engine.step()
    prompt = engine.submit([3] * 90, 5)
    for request in decoding:
        if request.id in engine.live:
            request.draft = [1] * 30
    live = [r for r in decoding if r.id in engine.live]
    step = engine.step()
    assert len(live) == 2
    assert [w.drafts for w in step.scheduled] == [10, 0, 0] and step.scheduled[2].request is prompt
    assert step.scheduled[2].count == module.FEWEST_PROMPT_TOKENS


def test_a_draft_takes_nobodys_pages() -> None:
    engine = FakeEngine(make_scheduler({None: 6, 24: 20}, cached=False))
    pair = [engine.submit([n] * 31, 60) for n in (1, 2)]
    engine.step()
    assert engine.scheduler.tables.pools[None].available == 2
    pair[0].draft = [1] * 50
    step = engine.step()
    assert (
        step.scheduled[0].drafts == 4 * PAGE - 32
        and len(step.scheduled) == 2
        and engine.scheduler.preemptions == 0
    )


def test_windows_are_forgotten_by_what_is_certain() -> None:
    engine = FakeEngine(make_scheduler({None: 100, 7: 100}))
    request = engine.submit([5] * 15, 60)
    engine.step()
    request.draft = [VOCAB] * 40  # no such token: all wrong
    engine.step()
    assert request.computed == 16
    run = engine.scheduler.tables.run(request.id, 7)
    assert run.first_page == 0 and len(run.pages) == 4


def test_aborted_in_flight_pages_stay_until_the_step_is_over() -> None:
    engine = FakeEngine(make_scheduler({None: 100, 24: 100}, cached=False))
    scheduler = engine.scheduler
    request, other = engine.submit([1] * 30, 5), engine.submit([2] * 30, 5)
    step = scheduler.schedule()
    scheduler.finish(request)
    scheduler.finish(other)
    assert not scheduler.has_work()
    engine.model.run(step)
    scheduler.advance(step.scheduled[0])
    assert scheduler.tables.owners == {other.id}
    assert not scheduler.schedule().scheduled  # the engine forgot to tell; the next step knows
    assert all_free(scheduler)


def test_preempted_requests_start_again_from_the_cache() -> None:
    def tokens(cached: bool) -> tuple[int, int]:
        engine = FakeEngine(make_scheduler({None: 16, 24: 40}, max_running=4, cached=cached))
        for n in range(1, 5):
            engine.submit([n] * 50, 40)
        engine.run()
        return engine.model.computed_tokens, engine.scheduler.preemptions

    (with_cache, preempted), (without, _) = tokens(True), tokens(False)
    assert preempted > 0 and with_cache < without


def test_what_two_prompts_begin_with_is_found_by_the_third() -> None:
    engine = FakeEngine(make_scheduler({None: 100, 24: 100}))
    computed = []
    for n in range(3):
        before = engine.model.computed_tokens
        engine.submit([5] * 80 + [n] * 40, 1)
        engine.run()
        computed.append(engine.model.computed_tokens - before)
    assert computed == [120, 120, 40]


def test_the_next_turn_goes_on_where_the_last_one_ended() -> None:
    engine = FakeEngine(make_scheduler({None: 100, 24: 100}))
    first = engine.submit([5] * 70, 30)
    engine.run()
    before = engine.model.computed_tokens
    engine.submit([*first.prompt, *first.generated, 1, 2, 3], 1)
    engine.run()
    assert engine.model.computed_tokens - before == 103 - 96
    assert engine.scheduler.cache is not None
    assert (engine.scheduler.cache.hits, engine.scheduler.cache.tokens_reused) == (1, 96)


def test_the_same_answers_with_and_without_a_cache() -> None:
    def answers(cached: bool) -> dict[int, list[int]]:
        engine = FakeEngine(make_scheduler({None: 60, 24: 40}, cached=cached), drafts=0.2)
        rng = random.Random(5)
        for _ in range(150):
            head = [rng.choice([1, 2])] * rng.choice([0, 30, 64])
            engine.submit(
                [*head, *(rng.randrange(VOCAB) for _ in range(rng.randint(1, 30)))],
                rng.randint(1, 20),
            )
            engine.step()
        engine.run()
        return {id: request.generated for id, request in engine.done.items()}

    assert answers(True) == answers(False)


# Callers take turns


def first_token(engine: FakeEngine, size: int, caller: str) -> int:
    """Steps until a prompt of that many tokens that nobody has sent before is answered with one."""
    began = engine.steps
    prompt = [engine.rng.randrange(VOCAB) for _ in range(size)]
    request = engine.submit(prompt, 1, caller=caller)
    while request.id not in engine.done:
        engine.step()
    return engine.steps - began


LOADS = {  # prompt, tokens, requests
    "many long answers": (20, 400, 60),
    "long prompts": (900, 3, 40),
    "one long prompt, and the memory holds both": (700, 3, 1),
    "more than the memory holds": (400, 300, 60),
}


@pytest.mark.parametrize("size", [5, 200, 600])
@pytest.mark.parametrize("head_start", [0, 1, 200])
@pytest.mark.parametrize("load", LOADS)
def test_a_light_caller_waits_at_most_three_times_as_long(
    load: str, head_start: int, size: int
) -> None:
    def made() -> FakeEngine:
        return FakeEngine(make_scheduler({None: 100, 24: 90}, max_batch_tokens=64, max_running=8))

    alone = first_token(made(), size, "light")
    engine = made()
    length, tokens, requests = LOADS[load]
    for n in range(requests):
        engine.submit([n % VOCAB] * length, min(tokens, 1600 - length), caller="heavy")
    for _ in range(head_start):
        engine.step()
    assert any(r.caller == "heavy" for r in engine.live.values()) or load != "many long answers"
    for _ in range(3):
        assert first_token(engine, size, "light") <= 3 * alone


@pytest.mark.parametrize("load", LOADS)
def test_a_chat_is_never_behind_batch_work(load: str) -> None:
    """Its prompt is read as fast as if there were none, whatever memory and places that took."""

    def made() -> FakeEngine:
        return FakeEngine(make_scheduler({None: 100, 24: 90}, max_batch_tokens=64, max_running=8))

    engine = made()
    length, tokens, requests = LOADS[load]
    for n in range(requests):
        most = min(tokens, 1600 - length)
        engine.submit([n % VOCAB] * length, most, caller=f"batch {n % 12}", is_batch=True)
    for size in (5, 300):
        for _ in range(10):
            engine.step()
        assert first_token(engine, size, "chat") == first_token(made(), size, "chat")
    if load == "many long answers":
        assert any(each.is_batch for each in engine.live.values())
        chats = [engine.submit([n] * 20, 30, caller="chat") for n in range(3)]
        rounds = 0
        while any(chat.id in engine.live for chat in chats):
            engine.step()
            rounds += 1
        assert rounds == 30, "a token a step for each"


def test_batch_work_has_what_chats_leave_and_turns_of_its_own() -> None:
    engine = FakeEngine(make_scheduler({None: 400, 24: 300}, max_batch_tokens=60, max_running=8))
    first = engine.submit([1] * 500, 5, caller="a", is_batch=True)
    second = engine.submit([2] * 500, 5, caller="b", is_batch=True)
    chat = engine.submit([3] * 40, 5, caller="c")
    engine.step()
    assert (chat.computed, first.computed, second.computed) == (40, 10, 10)
    late = engine.submit([4] * 500, 5, caller="d", is_batch=True)
    while chat.id in engine.live:
        engine.step()
    engine.step()
    assert late.computed, "callers of batch work take turns among themselves"


def test_samples_of_one_prompt_are_as_many_requests() -> None:
    engine = FakeEngine(make_scheduler({None: 400, 24: 300}, max_running=8))
    first = engine.submit([1] * 30, 300, caller="heavy")
    for _ in range(127):
        engine.submit(first.prompt, 300, parent=first, caller="heavy")
    for _ in range(50):
        engine.step()
    assert first_token(engine, 5, "light") == 1


def test_more_callers_than_places_each_get_a_turn() -> None:
    """Every caller has more to ask than can run; a new one comes after one turn of each."""
    engine = FakeEngine(make_scheduler({None: 400, 24: 300}, max_running=4))
    for n in range(20):
        for _ in range(20):
            engine.submit([n % VOCAB] * 5, 10, caller=f"heavy {n}")
    for _ in range(100):
        engine.step()
    assert first_token(engine, 5, "light") <= 20 / 4 * 11 + 10


def test_two_callers_have_the_same_share_of_the_places() -> None:
    engine = FakeEngine(make_scheduler({None: 400, 24: 300}, max_running=8))
    for _ in range(100):
        engine.submit([1] * 5, engine.rng.randint(20, 60), caller="early")
    for _ in range(5):
        engine.step()
    for _ in range(100):
        engine.submit([2] * 5, engine.rng.randint(20, 60), caller="late")
    engine.step()
    before = engine.scheduler.preemptions
    for _ in range(100):
        running = [work.request.caller for work in engine.step().scheduled]
        assert (running.count("early"), running.count("late")) == (4, 4)
    assert engine.scheduler.preemptions == before, "nobody starts again for another's turn"


def test_no_caller_overtakes_another_by_naming_a_number() -> None:
    engine = FakeEngine(make_scheduler({None: 400, 24: 300}, max_running=1))
    mine = engine.submit([1] * 5, 5, caller="mine")
    other = engine.submit([2] * 5, 5, priority=-(2**31), caller="other")
    assert engine.step().scheduled[0].request is mine
    engine.run()
    assert [*engine.done] == [mine.id, other.id]


def test_prompts_of_several_callers_share_a_step() -> None:
    engine = FakeEngine(make_scheduler({None: 400, 24: 300}, max_batch_tokens=60, max_running=8))
    long = engine.submit([1] * 500, 5, caller="a")
    also = engine.submit([2] * 500, 5, caller="b")
    short = engine.submit([3] * 10, 5, caller="c")
    engine.step()
    assert (long.computed, also.computed, short.computed) == (25, 25, 10)


def test_equal_shares() -> None:
    assert shares({"a": 100, "b": 100, "c": 10}, 60) == {"a": 25, "b": 25, "c": 10}
    assert shares({"a": 5, "b": 5}, 60) == {"a": 5, "b": 5}
    assert shares({"a": 5, "b": 5}, 1) == {"a": 1, "b": 0}


def test_a_prompt_has_half_of_the_time_of_a_step_however_many_answers_of_others_there_are() -> None:
    scheduler = make_scheduler(
        {None: 2000, 24: 300}, max_batch_tokens=1024, latency_target=0.25, cached=False
    )
    engine = FakeEngine(scheduler)

    def step() -> None:
        made = engine.step()
        prompt = sum(work.count for work in made.scheduled if work.count > 1)
        scheduler.observe(made, 0.3 + 0.001 * prompt)

    engine.submit([1] * 300, 900, caller="heavy")
    for _ in range(10):
        step()
    light = engine.submit([2] * 900, 1, caller="light")
    step()
    assert light.computed > 3 * module.FEWEST_PROMPT_TOKENS
