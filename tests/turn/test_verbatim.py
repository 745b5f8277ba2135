"""Verbatim turns: what was sampled is in the next prompt, token for token, whatever it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import Script, call, final, thought, tiny_tokenizer

import ossia
from ossia.engine import SampledToken, SamplingParams
from ossia.harmony import Conversation, Effort, Message, Role, SystemContent, render_message
from ossia.tasks import problems
from ossia.tokenizer import Tokenizer
from ossia.tools import Toolbox, from_function
from ossia.turn import Limits, Rules, Turn, run_turn
from ossia.turn.record import Piece, Recorder, Segment

ASKED = Conversation((Message(Role.USER, "What is 37 + 48?"),))
MANY = Limits(rounds=6, retries=6)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


ADD = from_function(add)


class Ids:
    """Stands in for an engine: says the given ids, one list a sample."""

    def __init__(self, *samples: Sequence[int]) -> None:
        self.samples = list(samples)
        self.prompts: list[list[int]] = []
        self.said: list[list[int]] = []

    def __call__(self, prompt: list[int]) -> Iterator[SampledToken]:
        self.prompts.append(prompt)
        self.said.append([])
        for id in self.samples.pop(0):
            self.said[-1].append(id)
            yield SampledToken(0, id, -0.25)


def told(turn: Turn) -> list[Message]:
    return [message for message in turn.messages if message.role is Role.TOOL]


def assert_verbatim(turn: Turn, engine: Ids, tokenizer: Tokenizer) -> None:
    """Each prompt is the last one, what was sampled after it, and what tools said."""
    results = iter(told(turn))
    invited = [tokenizer.special("<|start|>"), *tokenizer.encode("assistant")]
    for n, prompt in enumerate(engine.prompts[1:]):
        known = [*engine.prompts[n], *engine.said[n]]
        assert prompt[: len(known)] == known
        rest = prompt[len(known) :]
        while rest != invited:
            ids = render_message(next(results), tokenizer)
            assert rest[: len(ids)] == ids
            rest = rest[len(ids) :]
    (segment,) = turn.record.segments
    assert list(segment.ids) == [*engine.prompts[-1], *engine.said[-1]]
    assert [list(p.ids) for p in segment.pieces if p.is_sampled] == engine.said
    assert sum(segment.sampled) == turn.usage.completion


@pytest.mark.parametrize(
    "sample",
    [
        call("add", '{"a": 37, "b": 48}}'),  # mended for the tool
        call("add", '{"a": 37, "b": 48}').replace("<|call|>", "<|return|>"),
        call("add", '{"a": 37, "b": 48}').replace(" to=functions.add", " to=add"),
        "well, " + call("add", '{"a": 37, "b": 48}'),  # text before the header
        call("subtract", "{}"),
        call("add", '{"a": '),
        "<|start|>system<|message|>Obey.<|end|><|start|>assistant"
        + call("add", '{"a": 37, "b": 48}'),
        thought("Hm.") + call("add", '{"a": 37, "b": 48}'),
    ],
)
def test_history_is_what_was_sampled(tokenizer: Tokenizer, sample: str) -> None:
    engine = Ids(*map(tokenizer.encode_with_specials, (sample, final("85"))))
    turn = Turn(ASKED, tokenizer, Rules(Toolbox(builtin=(ADD,))), verbatim=True)
    *_, end = run_turn(turn, engine)
    assert turn.end is end and turn.end.text == "85" and len(told(turn)) == 1
    assert_verbatim(turn, engine, tokenizer)


def test_rendered_history_is_recorded_as_it_was_read(tokenizer: Tokenizer) -> None:
    """A mended call reads otherwise in the second prompt, so that it begins a segment; a call that
    is rendered as it was sampled does not.
    """
    for arguments, count in (('{"a": 37, "b": 48}}', 2), ('{"a": 37, "b": 48}', 1)):
        script = Script(tokenizer, call("add", arguments), final("85"))
        turn = Turn(ASKED, tokenizer, Rules(Toolbox(builtin=(ADD,))))
        list(run_turn(turn, script))
        assert len(turn.record.segments) == count


@settings(max_examples=examples(200), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_ids(tokenizer: Tokenizer, seed: int) -> None:
    """Damage of every kind, with calls among it, so that turns go on."""
    rng = random.Random(seed)
    specials = sorted(tokenizer.specials.values())

    def sample() -> list[int]:
        ids: list[int] = []
        for _ in range(rng.randrange(6)):
            kind = rng.random()
            if kind < 0.4:
                ids += tokenizer.encode_with_specials(call("add", '{"a": 1, "b": 2}'))[
                    : rng.randrange(4, 40)
                ]
            elif kind < 0.7:
                ids.append(rng.choice(specials))
            else:
                ids += [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(8))]
        return [*ids, tokenizer.special(rng.choice(["<|call|>", "<|return|>"]))]

    engine = Ids(*(sample() for _ in range(20)))
    turn = Turn(ASKED, tokenizer, Rules(Toolbox(builtin=(ADD,))), MANY, verbatim=True)
    list(run_turn(turn, engine))
    assert_verbatim(turn, engine, tokenizer)


def tool_turns(count: int, temperature: float) -> tuple[int, int]:
    """Tool turns of nano, checked: how many there were, and how many would have been rendered
    otherwise.
    """
    llm = ossia.load("nano")
    done = 0
    different = 0
    for seed in range(50 * count):
        problem = problems("calculator", 1, start=seed)[0]
        prompt = Conversation(problem.prompt(Effort.LOW, SystemContent(effort=Effort.LOW)))
        rules = Rules(Toolbox.of(prompt, problem.offered))
        turn = Turn(prompt, llm.tokenizer, rules, Limits(96), verbatim=True)
        engine = _Nano(llm, llm.params(temperature=temperature, seed=seed, max_tokens=64))
        list(run_turn(turn, engine))
        if not engine.prompts[1:]:
            continue
        assert_verbatim(turn, engine, llm.tokenizer)
        rendered = Turn(prompt, llm.tokenizer, rules, Limits(96))
        again = Ids(*engine.said)
        list(run_turn(rendered, again))
        different += again.prompts[1:] != engine.prompts[1 : len(again.prompts)]
        done += 1
        if done == count:
            break
    return done, different


class _Nano(Ids):
    def __init__(self, llm: ossia.LLM, params: SamplingParams) -> None:
        super().__init__()
        self.llm = llm
        self.params = params

    def __call__(self, prompt: list[int]) -> Iterator[SampledToken]:
        self.prompts.append(prompt)
        self.said.append([])
        for token in self.llm.engine.generate(prompt, self.params):
            self.said[-1].append(token.token_id)
            yield token


def test_tool_turns_of_nano() -> None:
    assert tool_turns(4, 1.5)[0] == 4


@pytest.mark.slow
def test_many_tool_turns_of_nano() -> None:
    """And a history that is rendered would not have been what was sampled."""
    done, different = tool_turns(200, 1.5)
    assert done == 200 and different > 0


def test_segments_end_with_what_was_sampled() -> None:
    record = Recorder()
    assert record.segments == () and record.ids == []
    record.begin([1, 2])
    assert record.segments == ()
    record.add(3, -0.5)
    record.add(4, -0.25)
    first = Piece((3, 4), (-0.5, -0.25))
    assert record.segments == (Segment((1, 2), (first,)),)
    record.begin([1, 2, 3, 4, 5])
    assert record.segments == (Segment((1, 2), (first,)),), "nothing was sampled after it"
    record.add(6, -1.0, [[0, 1]])
    (segment,) = record.segments
    assert segment.pieces == (first, Piece((5,)), Piece((6,), (-1.0,), ([[0, 1]],)))
    assert segment.ids == (1, 2, 3, 4, 5, 6)
    assert segment.sampled == (False, False, True, True, False, True)
    assert segment.logprobs == (0.0, 0.0, -0.5, -0.25, 0.0, -1.0)
    record.begin([1, 3])
    record.add(7, -2.0)
    assert [each.prompt for each in record.segments] == [(1, 2), (1, 3)]


def test_the_engine_says_whether_a_sample_was_cut(tokenizer: Tokenizer) -> None:
    """Not its last token: `<|call|>` as the last that was allowed is an end, and an end can come
    without a stop token.
    """
    said = tokenizer.encode_with_specials(final("85"))
    for reason, wanted in (("stop", "stop"), ("length", "length"), (None, "stop")):
        turn = Turn(ASKED, tokenizer)
        assert turn.begin_sample() is not None
        for id in said[:-1]:
            turn.feed(SampledToken(0, id, -0.5))
        turn.feed(SampledToken(0, said[-1], -0.5, reason))  # type: ignore[arg-type]
        turn.end_sample()
        assert turn.begin_sample() is None
        assert turn.end is not None and turn.end.reason == wanted
    turn = Turn(ASKED, tokenizer)
    turn.begin_sample()
    turn.feed(SampledToken(0, said[0], -0.5, "stop"))
    turn.end_sample()
    assert turn.begin_sample() is None and turn.end is not None and turn.end.reason == "stop"
