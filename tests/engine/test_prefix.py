"""The prefix cache: what it hands out is what these tokens would have written; who goes first when
space is short.
"""

from __future__ import annotations

import random

import pytest
from amounts import examples
from engine.fake_model import chain
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.config import PAGE
from ossia.engine.pages import PageTables, first_seen
from ossia.engine.prefix import PrefixCache


class Writer:
    """Sequences that write what their tokens imply into the pages they are given, and a cache
    beside them.
    """

    def __init__(self, pages: dict[int | None, int], **options: object) -> None:
        self.tables = PageTables(pages)
        self.cache = PrefixCache(self.tables, **options)  # type: ignore[arg-type]
        self.slots = {
            window: [0] * (pool.total * PAGE) for window, pool in self.tables.pools.items()
        }
        self.owners = 0

    def check(self) -> None:
        self.tables.check(self.cache.check())

    def hit(self, tokens: list[int], salt: str = "") -> int:
        """How many tokens a new sequence is given; it looks at them and ends."""
        found, known = self.cache.adopt(-1, salt, tokens)
        assert found <= known < max(1, len(tokens))
        self.check()
        if found:
            self.see(-1, salt, tokens, found)
            self.tables.release(-1)
        return found

    def see(self, owner: int, salt: str, tokens: list[int], position: int) -> None:
        want = chain(salt, tokens)
        for window, store in self.slots.items():
            first = first_seen(position, window)
            slots = self.tables.run(owner, window).slots(first, position)
            assert [store[slot] for slot in slots] == want[first:position]

    def write(self, tokens: list[int], salt: str = "", chunk: int = 1000, every: int = 1000) -> int:
        """A sequence computes all tokens and is remembered at multiples of `every` and at its last
        full page.
        """
        owner, self.owners = self.owners, self.owners + 1
        done, _ = self.cache.adopt(owner, salt, tokens)
        want = chain(salt, tokens)
        while done < len(tokens):
            end = min(len(tokens), done + chunk)
            for window, pool in self.tables.pools.items():
                self.cache.make_free(window, self.tables.missing(owner, window, done, end))
                assert pool.free >= self.tables.missing(owner, window, done, end)
            assert self.tables.grow(owner, done, end) == []
            for window, store in self.slots.items():
                for slot, value in zip(
                    self.tables.run(owner, window).slots(done, end), want[done:end], strict=True
                ):
                    store[slot] = value
            for p in range(done + 1, end + 1):
                if p % every == 0 or p == len(tokens) // PAGE * PAGE:
                    self.cache.insert(owner, salt, tokens[:p])
            self.tables.forget_behind_windows(owner, end)
            done = end
        self.check()
        return owner

    def written(self, tokens: list[int], salt: str = "", **how: int) -> None:
        self.tables.release(self.write(tokens, salt, **how))
        self.check()


def line(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000) for _ in range(length)]


@pytest.mark.parametrize(
    "pages", [{None: 100}, {24: 100}, {None: 100, 24: 100}, {None: 100, 7: 100, 130: 100}]
)
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_longest_snapshot_that_leaves_a_token_is_found(
    pages: dict[int | None, int], chunk: int
) -> None:
    w = Writer(pages)
    tokens = line(170)
    w.written(tokens, chunk=chunk, every=64)
    assert w.hit(tokens) == 160
    assert w.hit(tokens[:161]) == 160
    assert w.hit(tokens[:160]) == 128, "one token has to be computed"
    assert w.hit([*tokens[:150], 1001, *tokens[151:]]) == 128
    assert w.hit([*tokens[:64], 1001]) == 64
    assert w.hit(tokens[:64]) == w.hit([1001, *tokens]) == w.hit([]) == w.hit([5]) == 0
    w.cache.clear()
    w.check()
    assert w.hit(tokens) == 0 and all(pool.free == pool.total for pool in w.tables.pools.values())


def test_salts_separate() -> None:
    w = Writer({None: 100, 24: 100})
    w.written(line(50), "a")
    assert (w.hit(line(50), "a"), w.hit(line(50), "b"), w.hit(line(50))) == (48, 0, 0)


def test_equal_hashes_are_not_equal_tokens() -> None:
    w = Writer({None: 100, 24: 100})
    alike = 2**61 - 1
    assert hash((0,) * PAGE) == hash((alike,) * PAGE)
    w.written([0] * 50)
    assert w.hit([alike] * 50) == 0 and w.hit([0] * 50) == 48


@settings(deadline=None, max_examples=examples(60))
@given(
    st.data(),
    st.sampled_from([{None: 24, 24: 20}, {None: 40}, {20: 24}, {None: 24, 7: 20, 40: 30}]),
)
def test_against_a_list_of_what_was_written(
    data: st.DataObject, pages: dict[int | None, int]
) -> None:
    """With space for all, a hit is as long as it can be; with less, never longer, and what it finds
    is right.
    """
    roomy, tight = (
        Writer(dict.fromkeys(pages, 2000)),
        Writer(pages, budget=data.draw(st.sampled_from([None, 9, 25]))),
    )
    heads = [line(n, n) for n in (0, 30, 64)]
    known: set[tuple[int, ...]] = set()
    for _ in range(data.draw(st.integers(1, 15))):
        tail = data.draw(st.lists(st.integers(0, 1), max_size=90))
        tokens = [*data.draw(st.sampled_from(heads)), *tail] or [1]
        hit = max(
            (len(k) for k in known if len(k) < len(tokens) and tokens[: len(k)] == list(k)),
            default=0,
        )
        assert roomy.hit(tokens) == hit >= tight.hit(tokens)
        chunk = data.draw(st.integers(1, 100))
        for w in (roomy, tight):
            w.written(tokens, chunk=chunk, every=32)
        known |= {
            tuple(tokens[:p])
            for p in (*range(32, len(tokens) + 1, 32), len(tokens) // PAGE * PAGE)
            if p
        }


def test_the_least_recently_used_goes_first_and_of_a_line_its_end() -> None:
    w = Writer({None: 12})
    a, b = line(65, 1), line(65, 2)
    w.written(a, every=32)
    w.written(b, every=32)
    assert w.hit(a) == 64
    w.cache.make_free(None, 12 - 8 + 1)
    assert (w.hit(b), w.hit(a)) == (32, 64), "the older line loses its end"
    w.cache.make_free(None, 12 - 6 + 1)
    assert (w.hit(b), w.hit(a)) == (0, 64)
    w.cache.make_free(None, 12 - 4 + 1)
    assert w.hit(a) == 32
    assert w.tables.pools[None].free == 10


def test_pages_in_use_stay_and_are_not_dropped_in_vain() -> None:
    w = Writer({None: 12, 24: 12})
    used, idle = line(49, 1), line(49, 2)
    owner = w.write(used)
    w.written(idle)
    w.cache.make_free(None, 12 - 4)
    assert (w.hit(used), w.hit(idle)) == (48, 0), "older, but dropping it would free nothing"
    w.cache.clear()
    w.see(owner, "", used, 49)
    assert w.tables.pools[None].free == 8


def test_the_budget_is_kept_in_its_own_unit() -> None:
    w = Writer({None: 100, 24: 100}, budget=1000, page_costs={None: 100, 24: 10})
    for n in range(6):
        w.written(line(50, n))
        assert w.cache.cost <= 1000
    assert [w.hit(line(50, n)) for n in range(6)] == [0, 0, 0, 48, 48, 48]
    assert w.cache.cost == 3 * (3 * 100 + 3 * 10) or w.cache.cost == 3 * (3 * 100 + 2 * 10)
    empty = Writer({None: 100, 24: 100}, budget=0)
    empty.written(line(50))
    assert empty.hit(line(50)) == empty.cache.cost == len(empty.cache) == 0


def test_a_line_longer_than_the_budget_loses_its_end() -> None:
    w = Writer({None: 100}, budget=3)
    w.written(line(65), every=32)
    assert w.hit(line(65)) == 32


def test_the_same_pages_are_kept_once() -> None:
    w = Writer({None: 100, 24: 100})
    first, second = w.write(line(70)), w.write([*line(60), *line(40, 9)])
    assert w.tables.pools[None].kept == 4 + 6 - 3, "what both began with is one line of pages"
    for owner in (first, second):
        w.tables.release(owner)
    w.check()
    assert all(pool.idle == pool.kept == pool.total - pool.free for pool in w.tables.pools.values())


def test_a_cache_that_rests_holds_the_latest_and_the_last_line_whole() -> None:
    w = Writer({None: 160, 24: 160})
    for n in range(6):
        w.written(line(50, n))
    w.cache.shrink(1 / 16)
    w.check()
    assert [w.hit(line(50, n)) for n in range(6)] == [0, 0, 0, 48, 48, 48]
    w.written(line(401, 9), every=64)
    w.cache.shrink(1 / 16)
    w.check()
    assert [w.hit(line(50, n)) for n in (3, 4, 5)] == [0, 0, 0]
    assert w.hit(line(401, 9)) == 400, "larger than that share"
    w.written(line(50, 1))
    w.cache.shrink(1 / 16)
    assert w.hit(line(50, 1)) == 48 and w.hit(line(401, 9)) < 160
