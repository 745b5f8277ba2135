"""Constraints in the engine: only allowed tokens are drawn, masks are made ahead, failures stay
with their request.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from amounts import thorough
from tiny_model import tiny_config, tiny_tokenizer

from ossia.engine import Engine, SamplingParams
from ossia.engine.sampling import RowState, Sampled, sample_rows, unpacked
from ossia.errors import GrammarError, RequestError
from ossia.harmony import FunctionTool, StreamParser
from ossia.harmony.grammar.completion import harmony_grammar
from ossia.model import Transformer

BOTH = pytest.mark.parametrize("ahead", [False, True])  # steps begin before tokens are read
GREEDY = SamplingParams(temperature=0, max_tokens=12)
PROMPT = [5, 6, 7]
VOCAB = tiny_config(tiny_tokenizer()).vocab_size


def words(allowed: Sequence[int], size: int = VOCAB) -> Any:
    bits = np.zeros(-(-size // 32) * 32, np.uint8)
    bits[list(allowed)] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


class Choices:
    """Step n allows the tokens `steps[n]`, the last ends; and it writes down what happens to it."""

    def __init__(
        self, steps: Sequence[Sequence[int]], on_mask: Callable[[], None] = lambda: None
    ) -> None:
        self.steps, self.on_mask = steps, on_mask
        self.taken: list[int] = []
        self.asked: list[tuple[int, str]] = []

    @property
    def is_done(self) -> bool:
        return len(self.taken) == len(self.steps)

    def within(self, tokens: int) -> None:
        self.tokens = tokens

    def mask(self) -> Any:
        self.asked.append((len(self.taken), threading.current_thread().name))
        self.on_mask()
        return words(self.steps[len(self.taken)])

    def advance(self, token: int) -> None:
        assert token in self.steps[len(self.taken)]
        self.taken.append(token)


class Beyond(Choices):
    """Allows a token that the model has not."""

    def __init__(self) -> None:
        super().__init__([[0]])

    def mask(self) -> Any:
        return words([VOCAB + 40], VOCAB + 64)


@pytest.fixture(scope="module")
def model() -> Transformer:
    made = Transformer(tiny_config(tiny_tokenizer()))
    made.init_weights(0)
    rng = torch.Generator().manual_seed(0)
    for p in made.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=rng)
    return made.requires_grad_(False).eval()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_only_allowed_tokens_are_drawn_and_the_end_stops(
    model: Transformer, temperature: float
) -> None:
    steps = [[3], [10, 11], list(range(50)), [VOCAB - 1], [7]]
    for seed in range(5):
        choices = Choices(steps)
        params = SamplingParams(temperature=temperature, seed=seed, top_k=3, top_p=0.9, min_p=0.01)
        tokens = list(Engine(model).generate(PROMPT, params, choices))
        assert [t.token_id for t in tokens] == choices.taken
        assert [t.finish_reason for t in tokens] == [None] * 4 + ["stop"]


def test_greedy_takes_the_likeliest_allowed_and_reports_the_models_own_probability(
    model: Transformer,
) -> None:
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(1))
    some = sorted(random.Random(2).sample(range(VOCAB), 20))
    allowed = unpacked(words(some), VOCAB)
    assert allowed.nonzero().flatten().tolist() == some
    (greedy,) = sample_rows(logits[None], [RowState(GREEDY, PROMPT, VOCAB)], [words(some)])
    assert isinstance(greedy, Sampled) and greedy.token_id == max(
        some, key=lambda id: float(logits[id])
    )
    assert greedy.logprob == pytest.approx(float(logits.log_softmax(-1)[greedy.token_id]))
    states = [
        RowState(SamplingParams(temperature=100.0, seed=n), PROMPT, VOCAB) for n in range(400)
    ]
    drawn = sample_rows(logits.expand(400, -1), states, [words(some)] * 400)
    assert {one.token_id for one in drawn if isinstance(one, Sampled)} == set(some)


def test_masks_of_other_sizes() -> None:
    assert unpacked(words([1], 64), 40).tolist() == [False, True, *[False] * 38]
    assert unpacked(words([1], 32), 70).sum() == 1


@BOTH
def test_limits_and_stop_tokens_count_under_a_constraint_too(
    model: Transformer, ahead: bool
) -> None:
    free = Choices([list(range(VOCAB))] * 50)
    tokens = list(Engine(model, ahead=ahead).generate(PROMPT, replace(GREEDY, max_tokens=4), free))
    assert tokens[-1].finish_reason == "length" and len(tokens) == 4
    stopped = Choices([[8], [9], [8]])
    tokens = list(
        Engine(model, ahead=ahead).generate(
            PROMPT, replace(GREEDY, stop_ids=frozenset({9})), stopped
        )
    )
    assert [t.token_id for t in tokens] == [8, 9] and tokens[-1].finish_reason == "stop"


def test_masks_are_made_in_another_thread_while_the_model_runs(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = threading.Event()
    choices = Choices([[n] for n in range(6)], on_mask=made.set)
    engine = Engine(model)
    run = engine._runner.run
    overlapped = []

    def slow(*batch: Any) -> Any:
        # nothing else happens in this thread until the mask is there
        overlapped.append(made.wait(timeout=5))
        made.clear()
        return run(*batch)

    monkeypatch.setattr(engine._runner, "run", slow)
    list(engine.generate(PROMPT, GREEDY, choices))
    assert overlapped == [True] * 6
    assert [n for n, _ in choices.asked] == [0, 1, 2, 3, 4, 5]
    assert all(name.startswith("ossia-masks") for _, name in choices.asked)


def test_the_engine_waits_for_a_slow_mask(model: Transformer) -> None:
    choices = Choices([[1], [2], [3]], on_mask=lambda: time.sleep(0.03))
    assert [t.token_id for t in Engine(model).generate(PROMPT, GREEDY, choices)] == [1, 2, 3]


@pytest.mark.parametrize(
    "limits", [{}, {"max_batch_tokens": 8}, {"capacity": 64, "max_batch_tokens": 8}]
)
@BOTH
def test_constrained_and_free_requests_share_batches(
    model: Transformer, limits: dict[str, int], ahead: bool
) -> None:
    """Also when sequences give way to others and start again."""
    alone = [t.token_id for t in Engine(model, ahead=ahead).generate(PROMPT, GREEDY)]
    engine = Engine(model, ahead=ahead, **limits)
    steps = [[n, n + 100, n + 200] for n in range(12)]
    constraints = [Choices(steps), None, Choices(steps), None, Choices(steps)]
    ids = [
        engine.submit(PROMPT if c is None else [9] * (n + 1), GREEDY, c)
        for n, c in enumerate(constraints)
    ]
    out: dict[int, list[int]] = {id: [] for id in ids}
    while engine.has_work():
        for token in engine.step():
            out[token.request_id].append(token.token_id)
    assert not engine.failed
    for id, constraint in zip(ids, constraints, strict=True):
        assert out[id] == (alone if constraint is None else constraint.taken)


def test_no_threads_are_left_over(model: Transformer) -> None:
    engine = Engine(model)
    list(engine.generate(PROMPT, GREEDY, Choices([[1]])))
    for n in range(40):
        constraint = Choices([[1], [2], [3]], on_mask=lambda: time.sleep(0.001))
        with pytest.raises(RequestError):
            engine.submit([], GREEDY, constraint)
        request = engine.submit(PROMPT, GREEDY, constraint)
        if n % 2:
            engine.step()
        engine.abort(request)
    assert not engine.has_work()
    assert sum(thread.name.startswith("ossia-masks") for thread in threading.enumerate()) <= 4


def failing() -> Choices:
    def fail() -> None:
        if len(choices.taken) == 2:
            raise GrammarError("too complex")

    choices = Choices([[1], [2], [3]], on_mask=fail)
    return choices


@BOTH
def test_what_a_constraint_raises_is_raised_to_its_own_reader_only(
    model: Transformer, ahead: bool
) -> None:
    engine = Engine(model, ahead=ahead)
    alone = [t.token_id for t in Engine(model, ahead=ahead).generate(PROMPT, GREEDY)]
    free, broken = engine.generate(PROMPT, GREEDY), engine.generate(PROMPT, GREEDY, failing())
    next(broken)
    assert [t.token_id for t in free] == alone
    assert next(broken).token_id == 2
    with pytest.raises(GrammarError, match="too complex"):
        next(broken)
    assert not engine.has_work() and not engine.failed


@BOTH
def test_a_step_in_which_every_mask_fails_ends_its_requests_alone(
    model: Transformer, ahead: bool
) -> None:
    engine = Engine(model, ahead=ahead)
    for _ in range(2):
        broken = engine.generate(PROMPT, GREEDY, failing())
        assert [next(broken).token_id, next(broken).token_id] == [1, 2]
        with pytest.raises(GrammarError, match="too complex"):
            next(broken)
    assert len(list(engine.generate(PROMPT, GREEDY))) > 1 and not engine.failed


class Stubborn(Choices):
    """Fails over the token that it is told."""

    def advance(self, token: int) -> None:
        raise GrammarError("cannot go on")


@BOTH
def test_a_token_that_is_not_taken_ends_its_own_request_only(
    model: Transformer, ahead: bool
) -> None:
    engine = Engine(model, ahead=ahead)
    alone = [t.token_id for t in Engine(model, ahead=ahead).generate(PROMPT, GREEDY)]
    before, broken, after = (
        engine.submit(PROMPT, GREEDY, c) for c in (None, Stubborn([[1], [2]]), None)
    )
    tokens = []
    while engine.has_work():
        tokens += engine.step()
    assert str(engine.failed.pop(broken)) == "cannot go on" and not engine.failed
    assert all(
        [t.token_id for t in tokens if t.request_id == one] == alone for one in (before, after)
    )


def test_a_failure_that_nobody_waits_for_is_forgotten(model: Transformer) -> None:
    engine = Engine(model)
    free, broken = engine.generate(PROMPT, GREEDY), engine.generate(PROMPT, GREEDY, failing())
    next(broken)
    list(free)  # steps both; the other one fails on the way
    assert engine.failed
    broken.close()
    assert not engine.failed


@BOTH
def test_a_failure_is_kept_for_those_who_step(model: Transformer, ahead: bool) -> None:
    engine = Engine(model, ahead=ahead)
    request, other = engine.submit(PROMPT, GREEDY, failing()), engine.submit(PROMPT, GREEDY)
    tokens = []
    while engine.has_work():
        tokens += engine.step()
    assert isinstance(engine.failed[request], GrammarError)
    assert sum(t.request_id == other for t in tokens) == 12


def test_a_constraint_for_another_vocabulary_and_one_that_has_ended(model: Transformer) -> None:
    engine = Engine(model)
    with pytest.raises(RequestError, match="another vocabulary"):
        list(engine.generate(PROMPT, GREEDY, Beyond()))
    with pytest.raises(RequestError, match="fresh one"):
        engine.submit(PROMPT, GREEDY, Choices([]))


def test_a_random_model_speaks_harmony_under_its_grammar(model: Transformer) -> None:
    tokenizer = tiny_tokenizer()
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 0, "maximum": 9},
            "unit": {"enum": ["a", "b"]},
        },
        "required": ["n", "unit"],
        "additionalProperties": False,
    }
    tools = [FunctionTool("f", "", schema)]
    grammar = harmony_grammar(tokenizer, tools=tools, tool_choice="required", reasoning_budget=5)
    engine = Engine(model)
    prompt = tokenizer.encode_with_specials("<|start|>user<|message|>hi<|end|><|start|>assistant")
    called = 0
    for seed in range(12 if thorough() else 3):
        params = SamplingParams(seed=seed, max_tokens=500)
        tokens = list(engine.generate(prompt, params, grammar.start()))
        parser = StreamParser(tokenizer, strict=True)
        parser.feed([t.token_id for t in tokens])
        if tokens[-1].finish_reason == "stop":
            called += 1
            assert parser.messages[-1].recipient == "functions.f"
            assert json.loads(str(parser.messages[-1].content)).keys() == {"n", "unit"}
    assert called
