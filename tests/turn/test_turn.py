"""The turn loop, with scripted samples: what is said, which tools run, how a turn ends."""

from __future__ import annotations

import pytest
from tiny_model import Script, call, final, thought, tiny_tokenizer

from ossia.errors import ToolError
from ossia.harmony import (
    CallReady,
    Conversation,
    Message,
    MessageStart,
    RepairKind,
    Role,
    TextDelta,
    TurnClosed,
)
from ossia.tokenizer import Tokenizer
from ossia.tools import PythonFunction, from_function
from ossia.turn.turn import Event, ToolCalled, ToolReturned, Turn, TurnEnd, run_turn, stop_ids

ASKED = Conversation((Message(Role.USER, "What is 37 + 48?"),))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def add(calls: list[str]) -> PythonFunction:
    def add(a: int, b: int) -> int:
        """Adds."""
        calls.append(f"{a} + {b}")
        if a == 13:
            raise ToolError("thirteen is unlucky")
        return a + b

    return from_function(add)


def turn(script: Script, *tools: PythonFunction, rounds: int = 8) -> tuple[list[Event], TurnEnd]:
    events = list(run_turn(ASKED, script, script.tokenizer, tools, rounds))
    end = events[-1]
    assert isinstance(end, TurnEnd)
    assert sum(isinstance(event, TurnEnd) for event in events) == 1
    return events, end


def test_reasoning_then_answer(tokenizer: Tokenizer) -> None:
    script = Script(tokenizer, thought("30 + 40 = 70.") + final("37 + 48 = 85, in 語"))
    events, end = turn(script)
    assert (end.reason, end.reasoning, end.text) == ("stop", "30 + 40 = 70.", "37 + 48 = 85, in 語")
    assert [m.channel for m in end.messages] == ["analysis", "final"]
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert "".join(d.text for d in deltas if d.channel == "final") == end.text
    assert isinstance(events[0], MessageStart)
    assert end.prompt_tokens == len(tokenizer.encode_with_specials(script.prompts[0]))
    assert end.completion_tokens == len(
        tokenizer.encode_with_specials(thought("30 + 40 = 70.") + final("37 + 48 = 85, in 語"))
    )
    # the <|end|> that closes the reasoning is counted with it
    assert end.reasoning_tokens == len(tokenizer.encode("30 + 40 = 70.")) + 1


def test_a_tool_is_run_and_its_result_goes_back(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    first = thought("I add.") + call("add", '{"a": 37, "b": 48}')
    script = Script(tokenizer, first, final("85"))
    events, end = turn(script, add)
    assert calls == ["37 + 48"]
    assert [e for e in events if isinstance(e, ToolCalled | ToolReturned)] == [
        ToolCalled("add", '{"a": 37, "b": 48}'),
        ToolReturned("add", "85", failed=False),
    ]
    assert end.text == "85" and end.reason == "stop"
    assert [m.role for m in end.messages] == ["assistant", "assistant", "tool", "assistant"]
    result = "<|start|>functions.add to=assistant<|channel|>commentary<|message|>85<|end|>"
    assert script.prompts[1].endswith(result + "<|start|>assistant")
    assert "I add." in script.prompts[1], "the reasoning of the turn in progress is kept"
    assert end.prompt_tokens == len(tokenizer.encode_with_specials(script.prompts[0]))


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (call("subtract", "{}"), "there is no tool 'functions.subtract'; available: add"),
        (call("add", '{"a": 13, "b": 1}'), "thirteen is unlucky"),
        (call("add", '{"a": 1, "b": '), "invalid arguments for add: arguments: Invalid JSON"),
        (call("add", '{"a": 1}'), "b: Field required"),
        (call("add", '{"a": 1, "b": "x"}'), "b: Input should be a valid integer"),
        (call("add", ""), "Field required"),
    ],
)
def test_what_a_tool_cannot_do_is_told_to_the_model(
    tokenizer: Tokenizer, add: PythonFunction, sample: str, said: str
) -> None:
    script = Script(tokenizer, sample, final("Sorry."))
    events, end = turn(script, add)
    returned = next(event for event in events if isinstance(event, ToolReturned))
    assert returned.failed and returned.result.startswith("error: ") and said in returned.result
    assert said in script.prompts[1] and end.text == "Sorry."


@pytest.mark.parametrize(
    "sample",
    [
        '<|channel|>commentary to=add<|message|>{"a": 1, "b": 2}<|call|>',
        '<|channel|>analysis to=functions.add<|message|>{"a": 1, "b": 2}<|call|>',
        ' to=functions.add<|channel|>commentary <|constrain|>json<|message|>{"a": 1, "b": 2}<|call|>',
        '<|channel|>commentary to=functions.add<|message|>{"a": 1, "b": 2}<|return|>',
        '<|channel|>commentary to=functions.addjson<|message|>{"a": 1, "b": 2}<|call|>',
        '<|channel|>commentary to=functions.add,<|message|>{"a": 1, "b": 2}<|end|><|call|>',
    ],
)
def test_a_recipient_makes_a_call_wherever_it_stands(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str], sample: str
) -> None:
    _, end = turn(Script(tokenizer, sample, final("3")), add)
    assert calls == ["1 + 2"] and end.text == "3"


def test_arguments_are_mended_where_the_schema_says_how(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    good, bad = '{"a": 37, "b": 48}', '{"a": 37, "b": 48}}'
    sample = call("add", bad)
    script = Script(tokenizer, sample, final("85"))
    events, end = turn(script, add)
    assert calls == ["37 + 48"] and end.text == "85"
    assert [event for event in events if isinstance(event, ToolCalled)] == [ToolCalled("add", good)]
    (repair,) = end.repairs
    assert (repair.kind, repair.seen) == (RepairKind.ARGUMENTS, bad)
    assert repair.position == len(tokenizer.encode_with_specials(sample)) - 1
    assert bad in script.prompts[1], "history keeps what was said"
    _, end = turn(Script(tokenizer, call("add", '{"a": 37}}'), final("?")), add)
    assert not end.repairs, "what the schema refuses is not mended"


@pytest.mark.parametrize(
    "end", ["<|endoftext|>", "<|return|>", "<|start|>assistant<|end|><|call|>"]
)
def test_what_was_cut_is_not_mended(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str], end: str
) -> None:
    """Only CALL and END say that the arguments are all there. What is JSON is run as ever."""
    header = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>"
    _, over = turn(Script(tokenizer, header + '{"a": 1, "b": 2}}' + end, final("?")), add)
    assert not calls and RepairKind.ARGUMENTS not in [repair.kind for repair in over.repairs]
    (result,) = (m.text for m in over.messages if m.role is Role.TOOL)
    assert result.startswith("error: invalid arguments for add")
    turn(Script(tokenizer, header + '{"a": 1, "b": 2}' + end, final("3")), add)
    assert calls == ["1 + 2"]


def test_an_amount_that_breaks_off_is_not_paid(tokenizer: Tokenizer) -> None:
    paid = []

    def pay(amount: int) -> None:
        """Pays."""
        paid.append(amount)

    for end in ("<|call|>", "<|end|><|call|>", "<|endoftext|>", "<|start|>assistant<|call|>"):
        said = call("pay", '{"amount": 10').removesuffix("<|call|>") + end
        _, over = turn(Script(tokenizer, said, final("?")), from_function(pay))
        assert not paid and "error: invalid arguments" in over.messages[1].text


def test_a_tool_without_a_name_does_not_end_the_conversation(
    tokenizer: Tokenizer, add: PythonFunction
) -> None:
    said = (
        "<|channel|>analysis<|message|>x<|end|><|start|>Tool<|message|>y<|end|><|start|>assistant"
    )
    _, end = turn(Script(tokenizer, said + call("add", '{"a": 1, "b": 2}'), final("3")), add)
    assert end.text == "3"


def test_calls_and_ends_of_turns_are_events(tokenizer: Tokenizer, add: PythonFunction) -> None:
    script = Script(tokenizer, call("add", '{"a": 1, "b": 2}'), final("3"))
    events, _ = turn(script, add)
    ready = [event.message.content for event in events if isinstance(event, CallReady)]
    assert ready == ['{"a": 1, "b": 2}']
    assert [event.by for event in events if isinstance(event, TurnClosed)] == [
        "<|call|>",
        "<|return|>",
    ]


def test_rounds_of_tools_are_limited(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    again = call("add", '{"a": 1, "b": 1}')
    script = Script(tokenizer, *[again] * 9)
    _, end = turn(script, add, rounds=2)
    assert end.reason == "tool_rounds" and end.text == ""
    assert len(calls) == 2 and len(script.prompts) == 3
    calls.clear()
    _, end = turn(Script(tokenizer, again), add, rounds=0)
    assert end.reason == "tool_rounds" and not calls


def test_an_answer_without_its_end_is_cut(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    _, end = turn(Script(tokenizer, thought("Hm.") + "<|channel|>final<|message|>It is"))
    assert (end.reason, end.reasoning, end.text) == ("length", "Hm.", "It is")
    _, end = turn(Script(tokenizer, "<|channel|>analysis<|message|>I am thinking"))
    assert (end.reason, end.text, end.reasoning) == ("length", "", "I am thinking")
    _, end = turn(Script(tokenizer, call("add", '{"a": 1, "b": 1}').removesuffix("<|call|>")), add)
    assert end.reason == "length" and not calls, "a call that was cut is not made"
    _, end = turn(Script(tokenizer, ""))
    assert (end.reason, end.messages, end.completion_tokens) == ("length", (), 0)


def test_repairs_are_reported(tokenizer: Tokenizer) -> None:
    _, end = turn(Script(tokenizer, "<|message|>hello<|return|>"))
    assert end.text == "" and end.messages[0].content == "hello", "no channel: not called an answer"
    _, end = turn(
        Script(tokenizer, "<|channel|>final<|message|>a<|channel|>final<|message|>b<|return|>")
    )
    assert end.repairs and end.text == "ab"


def test_several_calls_in_one_sample_all_run(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    one = call("add", '{"a": 1, "b": 1}').replace("<|call|>", "<|end|><|start|>assistant")
    script = Script(tokenizer, one + call("add", '{"a": 2, "b": 2}'), final("2 and 4"))
    _, end = turn(script, add)
    assert calls == ["1 + 1", "2 + 2"] and end.text == "2 and 4"


def test_a_turn_by_hand(tokenizer: Tokenizer) -> None:
    """Whoever samples many turns at once drives `Turn` itself."""
    one = Turn(ASKED, tokenizer)
    assert one.prompt is not None and one.end is None
    for token in tokenizer.encode_with_specials(final("85")):
        one.feed(token)
    assert list(one.end_sample()) == [] and one.prompt is None
    assert one.end is not None and one.end.text == "85"


def test_stops(tokenizer: Tokenizer) -> None:
    names = ("<|return|>", "<|call|>", "<|endoftext|>")
    assert stop_ids(tokenizer) == {tokenizer.special(name) for name in names}
