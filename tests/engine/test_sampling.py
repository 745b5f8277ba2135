"""Sampling: filters and penalties against transformers' processors, draws against their
probabilities, on every instruction set that the CPU has and in torch alike; and a row's draw
depends on nothing but that row.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from amounts import examples, thorough
from hypothesis import given, settings
from hypothesis import strategies as st
from pretended_device import ELSEWHERE, pretending
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ossia.engine.request import SamplingParams
from ossia.engine.sampling import (
    RowState,
    Sampled,
    begin_rows,
    edited,
    filtered,
    philox,
    sample_rows,
    unpacked,
)
from ossia.errors import RequestError
from ossia.kernels.cpu.library import library, offered

LIBRARY = library()
OFFERED = offered(LIBRARY) if isinstance(LIBRARY, ctypes.CDLL) else []
# What these have more than others, products of bytes and halves, sampling has not.
ALIKE = () if thorough() else ("avxvnni", "avx512_vnni", "avx512")
COMPILED = [name for name in OFFERED if name not in ALIKE]
AS_ON_A_GPU = "interpret"
PATHS = ["reference", AS_ON_A_GPU, *COMPILED]
FAST = [*COMPILED, pytest.param(AS_ON_A_GPU, marks=pytest.mark.slow)]  # large rows


class use:
    """Within it, tokens are drawn by one instruction set's kernels, or by torch."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        if self.path in ("reference", "interpret"):
            self.patch.setenv("OSSIA_KERNELS", self.path)
        else:
            assert isinstance(LIBRARY, ctypes.CDLL)
            self.patch.delenv("OSSIA_KERNELS", raising=False)
            LIBRARY.ossia_choose(self.path.encode())

    def __exit__(self, *_: object) -> None:
        self.patch.undo()
        if isinstance(LIBRARY, ctypes.CDLL):
            LIBRARY.ossia_choose(OFFERED[0].encode())


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    with use(request.param):
        yield request.param


class Fixed(RowState):
    """With a number of the test's choice."""

    def __init__(
        self, params: SamplingParams, vocab: int, number: float, prompt: Sequence[int] = ()
    ) -> None:
        super().__init__(params, prompt, vocab)
        self.number = number

    def uniform(self) -> float:
        return self.number


def drawn(logits: Tensor, params: SamplingParams, mask: Any = None, number: float = 0.5) -> Sampled:
    (one,) = sample_rows(logits[None], [Fixed(params, len(logits), number)], [mask])
    if isinstance(one, RequestError):
        raise one
    return one


def random_logits(size: int, seed: int, kind: str = "spread") -> Tensor:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3
    if kind == "ties":
        logits = logits.round()
    if kind == "holes":
        logits[
            torch.rand(size, generator=torch.Generator().manual_seed(seed + 1)) < 0.5
        ] = -torch.inf
        logits[seed % size] = 1.0
    return logits


def words(allowed_V: Tensor) -> Any:
    bits = np.zeros(-(-len(allowed_V) // 32) * 32, np.uint8)
    bits[: len(allowed_V)] = allowed_V.numpy()
    return np.packbits(bits, bitorder="little").view(np.uint32)


# ---- which tokens stay ----

FILTERS = {
    "top_k": st.sampled_from([0, 1, 2, 7, 60, 700]),
    "top_p": st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    "min_p": st.sampled_from([0.0, 0.001, 0.1, 0.9, 1.0]),
}


@settings(deadline=None)
@given(st.integers(0, 10_000), st.fixed_dictionaries(FILTERS))
def test_filters_equal_transformers(seed: int, filters: dict[str, Any]) -> None:
    logits = random_logits(50, seed)
    want = logits[None]
    if filters["top_k"]:
        want = TopKLogitsWarper(filters["top_k"])(None, want)
    if filters["top_p"] < 1:
        want = TopPLogitsWarper(filters["top_p"])(None, want)
    if filters["min_p"]:
        want = MinPLogitsWarper(filters["min_p"])(None, want)
    got = filtered(logits, SamplingParams(**filters))
    assert torch.equal(torch.isinf(got), torch.isinf(want[0]))


SWEPT = 300  # tokens of a row, about, but for --thorough


def sweep(logits: Tensor, params: SamplingParams, mask: Any) -> tuple[list[int], Tensor, list[int]]:
    """Numbers in the middle of every kept token's share of [0, 1): (the tokens, the numbers, what
    is drawn).
    """
    x = logits if mask is None else logits.masked_fill(~unpacked(mask, len(logits)), -torch.inf)
    y = (x - x.max()) * RowState(params, (), len(logits)).inverse_temperature
    p = filtered(y, params).double().softmax(-1)
    numbers = p.cumsum(-1) - p / 2
    ids = p > 1e-5  # narrower shares drown in the rounding of the sum
    if not thorough() and int(ids.sum()) > SWEPT:
        ids &= torch.rand(ids.shape) < SWEPT / int(ids.sum())
    states = [Fixed(params, len(logits), float(number)) for number in numbers[ids]]
    rows = sample_rows(logits.expand(len(states), -1), states, [mask] * len(states))
    return (
        ids.nonzero().flatten().tolist(),
        numbers[ids],
        [r.token_id if isinstance(r, Sampled) else -1 for r in rows],
    )


@pytest.mark.parametrize("path", PATHS)
@settings(deadline=None, max_examples=examples(60))
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([1, 5, 97, 256, 1000, 4096, 4100, 9001]),
    kind=st.sampled_from(["spread", "ties", "holes"]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    filters=st.fixed_dictionaries(FILTERS),
    masked=st.booleans(),
)
def test_every_token_that_stays_is_drawn_for_its_share(
    path: str,
    seed: int,
    size: int,
    kind: str,
    temperature: float,
    filters: dict[str, Any],
    masked: bool,
) -> None:
    logits, mask = random_logits(size, seed, kind), None
    if masked:
        allowed = torch.rand(size, generator=torch.Generator().manual_seed(seed + 2)) < 0.3
        allowed[int(logits.argmax())] = True
        mask = words(allowed)
    with use(path):
        ids, numbers, got = sweep(logits, SamplingParams(temperature=temperature, **filters), mask)
    wrong = [(id, float(u), it) for id, u, it in zip(ids, numbers, got, strict=True) if id != it]
    assert not wrong


def test_ties_at_the_edge(path: str) -> None:
    """top_k keeps all that equal the last; top_p as many as it needs, lower ids first."""
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0])

    def kept(**filters: Any) -> list[int]:
        return sorted(
            {drawn(logits, SamplingParams(**filters), number=n / 97).token_id for n in range(97)}
        )

    assert kept(top_k=2) == [1, 2, 3, 4]
    p = logits.softmax(-1)
    assert kept(top_p=float(p[1] + 1.5 * p[2])) == [1, 2, 3]
    assert kept(min_p=math.exp(-1) - 1e-6) == [1, 2, 3, 4]
    assert kept(top_k=2, top_p=0.99) == [1, 2, 3, 4] and kept(top_k=1) == [1]


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize(
    "params", [{}, {"top_k": 400}, {"top_p": 0.9}, {"min_p": 0.01}, {"top_k": 5000, "top_p": 0.5}]
)
def test_flat_and_peaked_rows_of_the_real_size(path: str, params: dict[str, Any]) -> None:
    size = 201_088 - 5
    numbers = torch.rand(24, generator=torch.Generator().manual_seed(3)).tolist()
    for scale in (0.0, 0.2, 0.7, 3.0):
        check_shares(
            path, random_logits(size, 9) * scale, SamplingParams(temperature=0.9, **params), numbers
        )


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize(
    "params", [{"top_k": 5000}, {"top_p": 0.95}, {"top_p": 0.5}, {"top_p": 0.9, "min_p": 0.01}]
)
@pytest.mark.parametrize("shift", [-math.inf, -6.0, -0.3, 0.3, 6.0])
def test_rows_of_which_a_sample_says_something_else(
    path: str, params: dict[str, Any], shift: float
) -> None:
    """Where a filter guesses its cut from the first ids of every 256, these are unlike the others:
    it must notice.
    """
    size = 70_001
    logits = random_logits(size, 4) / 3
    logits[torch.arange(size) % 256 < 16] += shift
    check_shares(path, logits, SamplingParams(**params), [0.001, 0.4, 0.77, 0.999])
    few = words(torch.arange(size) % 256 < 20)
    check_shares(path, logits, SamplingParams(**params), [0.001, 0.4, 0.77, 0.999], few)


def check_shares(
    path: str, logits: Tensor, params: SamplingParams, numbers: Sequence[float], mask: Any = None
) -> None:
    """Each number lies within the share of the token that is drawn for it, but for the rounding of
    float32 sums.
    """
    size = len(logits)
    x = logits if mask is None else logits.masked_fill(~unpacked(mask, size), -torch.inf)
    p = filtered((x - x.max()) / params.temperature, params).double().softmax(-1)
    ends = p.cumsum(-1)
    rows = [Fixed(params, size, number) for number in numbers]
    with use(path):
        got = sample_rows(logits.expand(len(rows), -1), rows, [mask] * len(rows))
    for row, number in zip(got, numbers, strict=True):
        assert isinstance(row, Sampled) and p[row.token_id] > 0
        assert ends[row.token_id] - p[row.token_id] - 2e-6 <= number <= ends[row.token_id] + 2e-6


# ---- penalties and bias ----


def test_the_repetition_penalty_is_transformers(path: str) -> None:
    logits = random_logits(300, 1)
    prompt, answer = [3, 4, 4, 299], [7, 3]
    params = SamplingParams(temperature=0, repetition_penalty=1.7)
    state = RowState(params, prompt, 300)
    for token in answer:
        state.observe(token)
    want = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt + answer]), logits[None])[0]
    assert torch.equal(edited(logits, state), want)
    (got,) = sample_rows(logits[None], [state])
    assert isinstance(got, Sampled) and got.token_id == int(want.argmax())


@pytest.mark.parametrize("path", PATHS)
@settings(deadline=None, max_examples=examples(40))
@given(
    seed=st.integers(0, 1000),
    repetition=st.sampled_from([1.0, 0.5, 1.3, 1000.0]),
    presence=st.sampled_from([0.0, 1.5, -0.7]),
    frequency=st.sampled_from([0.0, 0.3, -2.0]),
    bias=st.dictionaries(
        st.integers(0, 4199), st.sampled_from([-1000.0, -1.0, 2, 7.5]), max_size=6
    ),
    answer=st.lists(st.integers(0, 4199), max_size=70),
    masked=st.booleans(),
)
def test_penalties_and_bias_change_the_draw_and_not_the_logprob(
    path: str, seed: int, repetition: float, presence: float, frequency: float,
    bias: dict[int, float],
    answer: list[int], masked: bool,
) -> None:  # fmt: skip
    logits, prompt = random_logits(4200, seed), [5, 17, 4199, 5]
    changes = {
        "repetition_penalty": repetition,
        "presence_penalty": presence,
        "frequency_penalty": frequency,
    }
    params = SamplingParams(temperature=0.8, top_k=50, logit_bias=bias, seed=seed, **changes)
    state = RowState(params, prompt, 4200)
    x = logits.clone()
    for token in {*prompt, *answer}:
        x[token] = x[token] * repetition if x[token] < 0 else x[token] / repetition
    for token in answer:
        state.observe(token)
        x[token] -= frequency
    for token in set(answer):
        x[token] -= presence
    for token, value in bias.items():
        x[token] += value
    mask = words(torch.arange(4200) % 3 > 0) if masked else None
    if mask is not None:
        x[~unpacked(mask, 4200)] = -torch.inf
    p = filtered((x - x.max()) / 0.8, SamplingParams(top_k=50)).double().softmax(-1)
    before = logits.clone()
    with use(path):
        (got,) = sample_rows(logits[None], [state], [mask])
    assert isinstance(got, Sampled) and torch.equal(logits, before)
    end, number = float(p.cumsum(-1)[got.token_id]), state.uniform()
    assert end - float(p[got.token_id]) - 1e-5 <= number <= end + 1e-5
    assert got.logprob == pytest.approx(float(logits.log_softmax(-1)[got.token_id]), abs=2e-5)


def test_a_bias_beyond_the_vocabulary() -> None:
    with pytest.raises(RequestError, match="names token 50; the vocabulary has 50"):
        RowState(SamplingParams(logit_bias={50: 1.0}), (), 50)


# ---- draws ----


@pytest.mark.parametrize("path", ["reference", *FAST], indirect=True)
@pytest.mark.parametrize(
    "change", [{"temperature": 0.5}, {"temperature": 2.0, "top_k": 9}, {"top_p": 0.9}]
)
def test_draws_follow_the_tempered_probabilities(path: str, change: dict[str, Any]) -> None:
    logits, params = random_logits(20, 2) / 3, SamplingParams(seed=1, **change)
    p = filtered(logits / params.temperature, params).softmax(-1).double().numpy()
    state, seen = RowState(params, (), 20), np.zeros(20, np.int64)
    for _ in range(4000):
        (one,) = sample_rows(logits[None], [state])
        assert isinstance(one, Sampled)
        seen[one.token_id] += 1
        state.observe(one.token_id)
    assert not seen[p == 0].any()
    degrees, expected = int((p > 0).sum()) - 1, 4000 * p[p > 0]
    chi_square = float(((seen[p > 0] - expected) ** 2 / expected).sum())
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees)


def test_the_generator_is_numpys_philox() -> None:
    for key, block, stream in [
        (0, 1, 0),
        (7, 2, 3),
        (2**127 + 12345, 2**64 - 1, 9),
        (-1, 10**9, 2**40),
    ]:
        number = (block - 1) | stream << 64  # numpy counts before it draws
        theirs = np.random.Philox(key=key % 2**128, counter=number).random_raw(4)
        assert philox(key, block, stream) == tuple(theirs.tolist())


def test_numbers_depend_on_seed_stream_and_place_only() -> None:
    def numbers(seed: int | None, stream: int = 0, count: int = 9) -> list[float]:
        state, out = RowState(SamplingParams(seed=seed), (1, 2), 50, stream), []
        for n in range(count):
            out += [state.uniform(), state.uniform()]
            assert out[-1] == out[-2] and 0 <= out[-1] < 1
            state.observe(n)
        return out

    assert numbers(3) == numbers(3) and numbers(3, count=4) == numbers(3)[:8]
    different = [
        numbers(3),
        numbers(4),
        numbers(-3),
        numbers(3, 1),
        numbers(2**64 + 3),
        numbers(None),
        numbers(None),
    ]
    assert len({tuple(some) for some in different}) == len(different)


def test_a_temperature_near_zero_is_greedy(path: str) -> None:
    logits = torch.tensor([0.1, 0.2, 0.0])
    for temperature in (1e-40, 1e-300, 1e-6):
        assert drawn(logits, SamplingParams(temperature=temperature)).token_id == 1
    hot = {
        drawn(logits, SamplingParams(temperature=1e300), number=n / 30).token_id for n in range(30)
    }
    assert hot == {0, 1, 2}


def test_the_ends_of_the_unit_interval(path: str) -> None:
    logits = torch.full((5000,), -torch.inf)
    logits[[7, 4500]] = torch.tensor([0.0, -3.0])
    for filters in ({}, {"top_k": 3}, {"top_p": 0.99}, {"min_p": 1e-9}):
        assert drawn(logits, SamplingParams(**filters), number=0.0).token_id == 7
        assert drawn(logits, SamplingParams(**filters), number=1 - 2**-53).token_id == 4500


def test_greedy_takes_the_lowest_of_the_likeliest_and_logprobs_are_the_models(path: str) -> None:
    logits = random_logits(9000, 3)
    logits[[8000, 4321, 77]] = 40.0
    got = drawn(logits, SamplingParams(temperature=0, top_logprobs=5))
    want = logits.double().log_softmax(-1)
    likeliest = sorted(range(9000), key=lambda id: (-float(logits[id]), id))[:5]
    assert got.token_id == 77 and got.logprob == pytest.approx(float(want[77]), abs=1e-5)
    assert [id for id, _ in got.top_logprobs] == likeliest
    assert [p for _, p in got.top_logprobs] == pytest.approx(want[likeliest].tolist(), abs=2e-5)


@pytest.mark.parametrize("size", [3, 97, 4097])
def test_top_logprobs_ignore_mask_and_filters(path: str, size: int) -> None:
    logits = random_logits(size, 4, "ties")
    mask = words(torch.arange(size) == 1)
    got = drawn(
        logits, SamplingParams(temperature=3, top_k=1, logit_bias={2: 9.0}, top_logprobs=60), mask
    )
    likeliest = sorted(range(size), key=lambda id: (-float(logits[id]), id))[:60]
    assert got.token_id == 1 and [id for id, _ in got.top_logprobs] == likeliest


# ---- rows and their neighbours ----


def mixed_batch() -> tuple[Tensor, list[RowState], list[Any]]:
    size = 30_011
    params = [
        SamplingParams(temperature=0, top_logprobs=4),
        SamplingParams(seed=1),
        SamplingParams(seed=2, temperature=0.7, top_k=40, top_p=0.95, min_p=0.02),
        SamplingParams(seed=3, top_p=0.9),
        SamplingParams(
            seed=4,
            repetition_penalty=1.2,
            frequency_penalty=0.5,
            logit_bias={5: 3.0},
            top_logprobs=20,
        ),
        SamplingParams(seed=5, temperature=1.4),
        SamplingParams(seed=6, top_k=9000),
        SamplingParams(seed=7, min_p=0.05),
    ]
    logits = torch.stack([random_logits(size, n) for n in range(len(params))])
    masks = [
        words(torch.arange(size) % 7 < 2) if n in (0, 3, 5) else None for n in range(len(params))
    ]
    return logits, [RowState(p, range(200), size) for p in params], masks


def test_a_rows_bits_depend_on_that_row_alone(path: str) -> None:
    logits, states, masks = mixed_batch()
    want = sample_rows(logits, states, masks)
    assert all(isinstance(row, Sampled) for row in want)
    assert [
        sample_rows(logits[n : n + 1], [states[n]], [masks[n]])[0] for n in range(len(states))
    ] == want
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = sample_rows(logits[order], [states[n] for n in order], [masks[n] for n in order])
    assert shuffled == [want[n] for n in order]
    if isinstance(LIBRARY, ctypes.CDLL):
        threads = LIBRARY.ossia_threads()
        for count in (1, 2, 5):
            LIBRARY.ossia_set_threads(count)
            assert sample_rows(logits, states, masks) == want
        LIBRARY.ossia_set_threads(threads)


class Waits(TorchDispatchMode):
    """Counts copies between the CPU and the device that is pretended which wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        is_read = op is torch.ops.aten._local_scalar_dense.default
        if op is torch.ops.aten._to_copy.default:
            place = args[0].device
            is_moved = kwargs.get("device", place) != place
            self.count += is_moved and not kwargs.get("non_blocking")
        self.count += is_read
        return op(*args, **kwargs)


def test_a_draw_on_a_device_is_begun_without_waiting_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its logits may still be computed, and another step may be asked for before it is read."""
    monkeypatch.setenv("OSSIA_KERNELS", "interpret")
    logits, states, masks = mixed_batch()
    want = sample_rows(logits, states, masks)
    with pretending():
        there = logits.to(ELSEWHERE)
        with Waits() as waits:
            drawing = begin_rows(there, states, masks)
        assert waits.count == 0
        tokens_R = drawing.tokens_R()
        assert tokens_R.device == ELSEWHERE
        tokens = tokens_R.tolist()
        assert drawing.read() == want
    assert tokens == [row.token_id for row in want if isinstance(row, Sampled)]


def test_rows_that_cannot_be_drawn_from_leave_the_others_alone(path: str) -> None:
    logits, states, masks = mixed_batch()
    want = sample_rows(logits, states, masks)
    logits[0, 29_999] = torch.nan
    logits[1, 5] = torch.inf
    logits[2] = -torch.inf
    masks[3] = np.zeros(900, np.uint32)
    masks[4] = np.full(20, 2**32 - 1, np.uint32)  # short, and all it allows has no probability
    logits[4, :640] = -torch.inf
    got = sample_rows(logits, states, masks)
    assert [isinstance(row, RequestError) for row in got] == [True] * 5 + [False] * 3 and got[
        5:
    ] == want[5:]
    assert "nan or infinity" in str(got[0]) and "nan or infinity" in str(got[1])
    assert all("no token may come next" in str(row) for row in got[2:5])
    assert sample_rows(logits[:0], []) == []


def test_logits_of_other_types_and_strides(path: str) -> None:
    logits = random_logits(500, 5)
    wide = torch.stack([logits, -logits, logits], dim=1)
    want = drawn(logits, SamplingParams())
    assert sample_rows(wide.T[::2], [Fixed(SamplingParams(), 500, 0.5)] * 2) == [want, want]
    half = logits.bfloat16()
    assert drawn(half, SamplingParams()) == drawn(half.float(), SamplingParams())


# ---- parameters ----


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.5),
        ("top_k", -1),
     ("min_p", 2.0), ("max_tokens", 0), ("temperature", "hot"), ("top_k", 1.5), ("seed", True),
     ("repetition_penalty", 0.0), ("repetition_penalty", float("nan")),
     ("presence_penalty", float("inf")),
     ("frequency_penalty", "much"), ("top_logprobs", -1), ("top_logprobs", 129),
     ("top_logprobs", 2.0),
     ("logit_bias", [1]), ("logit_bias", {"a": 1.0}), ("logit_bias", {-1: 1.0}),
     ("logit_bias", {1: float("nan")}),
     ("logit_bias", {1: None}), ("logit_bias", {True: 1.0})],
)  # fmt: skip
def test_senseless_values_are_named(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=name):
        SamplingParams(**{name: value})
