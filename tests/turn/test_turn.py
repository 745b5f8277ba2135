"""The turn loop, with scripted samples: what is said, which tools run, how a turn ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from answer_events import fold
from tiny_model import Script, call, final, thought, tiny_tokenizer

from ossia.engine.request import SampledToken
from ossia.errors import GrammarError, ToolError
from ossia.harmony import Conversation, DeveloperContent, FunctionTool, Message, RepairKind, Role
from ossia.tokenizer import Tokenizer
from ossia.tools import PythonFunction, Toolbox, ToolChoice, from_function
from ossia.turn import Limits, Rules, Turn, run_turn, stop_ids
from ossia.turn.events import (
    BuiltinCallItem,
    CallStart,
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    ToolCallItem,
    TurnEnd,
    TurnEvent,
)
from ossia.turn.targets import Grammars
from ossia.turn.turn import NO_TOKENS_LEFT

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


def turn(
    script: Script, *tools: PythonFunction, limits: Limits | None = None
) -> tuple[list[TurnEvent], TurnEnd]:
    one = Turn(ASKED, script.tokenizer, Rules(Toolbox(builtin=tools)), limits)
    events = list(run_turn(one, script))
    end = events[-1]
    assert isinstance(end, TurnEnd)
    fold(events)
    return events, end


def calls_of(events: list[TurnEvent]) -> list[BuiltinCallItem]:
    ended = [event.item for event in events if isinstance(event, ItemEnd)]
    return [item for item in ended if isinstance(item, BuiltinCallItem)]


def test_reasoning_then_answer(tokenizer: Tokenizer) -> None:
    script = Script(tokenizer, thought("30 + 40 = 70.") + final("37 + 48 = 85, in 語"))
    events, end = turn(script)
    assert (end.reason, end.reasoning, end.text) == ("stop", "30 + 40 = 70.", "37 + 48 = 85, in 語")
    assert [m.channel for m in end.messages] == ["analysis", "final"]
    said = [e.index for e in events if isinstance(e, ItemStart) and isinstance(e.item, MessageItem)]
    deltas = [event for event in events if isinstance(event, ItemDelta)]
    assert "".join(d.text for d in deltas if d.index in said) == end.text
    assert isinstance(events[0], ItemStart)
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
    (started,) = (event.item for event in events if isinstance(event, CallStart))
    (called,) = calls_of(events)
    assert (started.name, started.text, started.result) == ("add", '{"a": 37, "b": 48}', "")
    assert (called.name, called.result, called.failed) == ("add", "85", False)
    assert end.text == "85" and end.reason == "stop"
    assert [m.role for m in end.messages] == ["assistant", "assistant", "tool", "assistant"]
    result = "<|start|>functions.add to=assistant<|channel|>commentary<|message|>85<|end|>"
    assert script.prompts[1].endswith(result + "<|start|>assistant")
    assert "I add." in script.prompts[1], "the reasoning of the turn in progress is kept"
    assert end.prompt_tokens == sum(map(len, map(tokenizer.encode_with_specials, script.prompts)))


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (call("add", '{"a": 13, "b": 1}'), "thirteen is unlucky"),
        (call("add", '{"a": 1}'), "b: Field required"),
        (call("add", '{"a": 1, "b": "x"}'), "b: Input should be a valid integer"),
    ],
)
def test_what_a_tool_cannot_do_is_told_to_the_model(
    tokenizer: Tokenizer, add: PythonFunction, sample: str, said: str
) -> None:
    script = Script(tokenizer, sample, final("Sorry."))
    events, end = turn(script, add)
    (called,) = calls_of(events)
    assert called.failed and called.result.startswith("error: ") and said in called.result
    assert said in script.prompts[1] and end.text == "Sorry."


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (
            call("subtract", "{}"),
            "<|start|>functions.subtract to=assistant<|channel|>commentary<|message|>error: there "
            "is "
            "no tool 'functions.subtract'; available: functions.add",
        ),
        (call("add", '{"a": 1, "b": '), "error: the arguments are not valid JSON: line 1, column"),
        (
            call("add", ""),
            "error: the arguments are not valid JSON: no arguments, but required are",
        ),
        (call("add", "null"), "error: the arguments are not valid JSON: found null"),
    ],
)
def test_calls_that_cannot_be_understood_are_between_us_and_the_model(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str], sample: str, said: str
) -> None:
    script = Script(tokenizer, sample, final("Sorry."))
    events, end = turn(script, add)
    assert said in script.prompts[1] and end.text == "Sorry."
    assert not calls_of(events) and not calls
    script = Script(tokenizer, *[sample] * 3)
    _, end = turn(script, add)
    assert end.reason == "stop" and len(script.prompts) == 3 and not calls, "two retries, no more"


@pytest.mark.parametrize(
    "sample",
    [
        '<|channel|>commentary to=add<|message|>{"a": 1, "b": 2}<|call|>',
        '<|channel|>analysis to=functions.add<|message|>{"a": 1, "b": 2}<|call|>',
        ' to=functions.add<|channel|>commentary <|constrain|>json<|message|>{"a": 1, "b": '
        "2}<|call|>",
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
    assert [called.text for called in calls_of(events)] == [good]
    (repair,) = end.repairs
    assert (repair.kind, repair.seen) == (RepairKind.ARGUMENTS, bad)
    assert repair.position == len(tokenizer.encode_with_specials(sample)) - 1
    assert good + "<|call|>" in script.prompts[1], "history has what was understood"
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
    assert result.startswith("error: the arguments are not valid JSON")
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
        assert not paid and "error: the arguments are not" in over.messages[1].text


def test_a_tool_without_a_name_does_not_end_the_conversation(
    tokenizer: Tokenizer, add: PythonFunction
) -> None:
    said = (
        "<|channel|>analysis<|message|>x<|end|><|start|>Tool<|message|>y<|end|><|start|>assistant"
    )
    _, end = turn(Script(tokenizer, said + call("add", '{"a": 1, "b": 2}'), final("3")), add)
    assert end.text == "3"


def test_rounds_of_tools_are_limited(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    again = call("add", '{"a": 1, "b": 1}')
    script = Script(tokenizer, *[again] * 9)
    _, end = turn(script, add, limits=Limits(rounds=2))
    assert end.reason == "tool_rounds" and end.text == ""
    assert len(calls) == 2 and len(script.prompts) == 3
    calls.clear()
    _, end = turn(Script(tokenizer, again), add, limits=Limits(rounds=0))
    assert end.reason == "tool_rounds" and not calls
    assert [m.role for m in end.messages] == ["assistant", "tool"], "and the model would read why"


def test_calls_are_limited(tokenizer: Tokenizer, add: PythonFunction, calls: list[str]) -> None:
    again = call("add", '{"a": 1, "b": 1}')
    script = Script(tokenizer, again, again, final("2"))
    events, end = turn(script, add, limits=Limits(max_calls=1))
    assert calls == ["1 + 1"] and end.text == "2"
    assert [called.failed for called in calls_of(events)] == [False, True]
    started = [event.index for event in events if isinstance(event, CallStart)]
    ended = [event.index for event in events if isinstance(event, ItemEnd)]
    assert started == ended[:2], "a refused call is told like any other"
    assert "no more calls are allowed" in script.prompts[2]


def test_tokens_are_those_of_all_samples(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    first = call("add", '{"a": 1, "b": 1}')
    most = len(tokenizer.encode_with_specials(first))
    one = Turn(ASKED, tokenizer, Rules(Toolbox(builtin=(add,))), Limits(max_tokens=most))
    assert one.tokens_left == most
    *_, end = run_turn(one, Script(tokenizer, first))
    assert isinstance(end, TurnEnd) and end.reason == "length" and one.tokens_left == 0
    assert not calls, "nobody would read the result"
    assert end.messages[-1].text == NO_TOKENS_LEFT


def test_a_call_of_a_sample_that_was_cut_is_not_run(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    """Nor counted: of several calls in a sample, the tokens ran out in the second."""
    one = call("add", '{"a": 1, "b": 1}').replace("<|call|>", "<|end|><|start|>assistant")
    cut = call("add", '{"a": 2, "b": 2}').removesuffix("<|call|>")
    events, end = turn(Script(tokenizer, one + cut), add, limits=Limits(max_calls=1))
    assert end.reason == "length" and not calls
    other, called = calls_of(events)
    assert (called.failed, called.result) == (True, NO_TOKENS_LEFT) and other.result == ""
    assert [m.role for m in end.messages] == ["assistant", "assistant", "tool"]


def test_the_last_token_may_end_a_call_whose_result_the_caller_reads(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    """The caller's own call in the same sample makes it go on, with new tokens."""
    lamp = Message(Role.DEVELOPER, DeveloperContent(tools=(FunctionTool("lamp"), add.function)))
    declared = Conversation((lamp, *ASKED.messages))
    ours = call("add", '{"a": 1, "b": 1}').replace("<|call|>", "<|end|><|start|>assistant")
    said = ours + call("lamp", "{}")
    most = len(tokenizer.encode_with_specials(said))
    one = Turn(declared, tokenizer, Rules(Toolbox.of(declared, [add])), Limits(max_tokens=most))
    *_, end = run_turn(one, Script(tokenizer, said))
    assert isinstance(end, TurnEnd) and end.reason == "calls" and calls == ["1 + 1"]


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
    assert end.text == "hello", "no channel: how it was closed says what it is"
    _, end = turn(Script(tokenizer, "<|message|>Hm.<|end|><|start|>assistant" + final("a")))
    assert (end.reasoning, end.text) == ("Hm.", "a")
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


def test_what_follows_a_call_waits_for_its_result(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str]
) -> None:
    early = call("add", '{"a": 1, "b": 1}').replace("<|call|>", "<|end|>")
    guess = "<|start|>functions.add to=assistant<|message|>9<|end|><|start|>assistant"
    us = "<|start|>assistant"
    for rest in (us + final("3"), guess + call("add", '{"a": 9, "b": 9}'), us + thought("?")):
        calls.clear()
        script = Script(tokenizer, early + rest, final("2"))
        _, end = turn(script, add)
        assert calls == ["1 + 1"] and end.text == "2" and len(script.prompts) == 2


def test_a_call_of_the_callers_ends_the_turn(tokenizer: Tokenizer, add: PythonFunction) -> None:
    lamp = Message(Role.DEVELOPER, DeveloperContent(tools=(FunctionTool("lamp"), add.function)))
    declared = Conversation((lamp, *ASKED.messages))
    toolbox = Toolbox.of(declared, [add])
    assert [tool.name for tool in toolbox.functions] == ["lamp"], "the other one is ours"
    one = Turn(declared, tokenizer, Rules(toolbox))
    script = Script(tokenizer, call("add", '{"a": 1, "b": 1}'), call("lamp", "{}"))
    *_, end = run_turn(one, script)
    assert isinstance(end, TurnEnd) and end.reason == "calls"
    assert end.messages[-1].recipient == "functions.lamp"


@pytest.mark.parametrize(
    ("second", "shown"),
    [
        (call("lamp", '{"level": 300}'), ["functions.lamp", "functions.lamp"]),  # misfits
        (call("lamp", '{"level": '), ["functions.lamp", "functions.lamp"]),  # cannot be read
        (call("lump", "{}"), ["functions.lamp"]),  # is unknown
        (call("add", '{"a": '), ["functions.lamp"]),  # is ours, and cannot be read
        (call("add", '{"a": 1, "b": 300}'), ["functions.lamp", "functions.add"]),  # ours, misfits
    ],
)
def test_after_a_call_of_the_callers_nothing_is_lost(
    tokenizer: Tokenizer, add: PythonFunction, calls: list[str], second: str, shown: list[str]
) -> None:
    """The turn ends with the first call, so that the model cannot be told and try again."""
    level = {"type": "object", "properties": {"level": {"type": "integer", "maximum": 100}}}
    add.function.parameters["properties"]["b"]["maximum"] = 100
    toolbox = Toolbox((FunctionTool("lamp", "", level),), builtin=(add,))
    checked = frozenset({"functions.lamp", "functions.add"})
    one = Turn(ASKED, tokenizer, Rules(toolbox, checked=checked))
    first = call("lamp", '{"level": 1}').replace("<|call|>", "<|end|><|start|>assistant")
    events = list(run_turn(one, Script(tokenizer, first + second)))
    end = events[-1]
    assert isinstance(end, TurnEnd) and end.reason == "calls" and one.samples == 1
    fold(events)
    items = [event.item for event in events if isinstance(event, ItemEnd)]
    names = [f"functions.{item.name}" for item in items if isinstance(item, ToolCallItem)]
    names += [f"functions.{item.function}" for item in calls_of(events)]
    assert names == shown
    asked = [message for message in end.messages if message.role is Role.ASSISTANT]
    assert len(asked) == 2, "the end has what the model wrote"
    is_told = any(message.text.startswith("error: ") for message in end.messages)
    assert is_told is (len(shown) == 1)
    assert calls == (["1 + 300"] if "functions.add" in shown else [])


def test_a_turn_that_is_over_stays_over(tokenizer: Tokenizer, add: PythonFunction) -> None:
    """Asking again changes nothing, also after a call that could not be understood."""
    one = Turn(ASKED, tokenizer, Rules(Toolbox(builtin=(add,))), Limits(retries=0))
    assert one.begin_sample() is not None
    for token in tokenizer.encode_with_specials(call("add", "null")):
        one.feed(SampledToken(0, token, 0.0))
    one.end_sample()
    assert one.begin_sample() is None
    end = one.end
    assert one.begin_sample() is None and one.end is end


def test_a_turn_by_hand(tokenizer: Tokenizer) -> None:
    """Whoever samples many turns at once drives `Turn` itself, and has every token."""
    one = Turn(ASKED, tokenizer)
    prompt = one.begin_sample()
    ids = tokenizer.encode_with_specials(final("85"))
    assert prompt is not None and one.end is None
    for n, token in enumerate(ids):
        one.feed(SampledToken(0, token, -float(n)))
    assert one.end_sample() == [] and not one.calls
    assert one.begin_sample() is None
    assert one.end is not None and one.end.text == "85"
    (segment,) = one.record.segments
    (piece,) = segment.pieces
    assert (list(segment.prompt), list(piece.ids)) == (prompt, ids)
    assert piece.logprobs == tuple(-float(n) for n in range(len(ids)))


def test_a_choice_binds_the_first_call(tokenizer: Tokenizer, add: PythonFunction) -> None:
    """Then the model may answer, or the turn could never end."""
    toolbox = Toolbox(builtin=(add,), choice=ToolChoice("required"))
    grammars = Grammars.of(toolbox, lambda box: box.grammar(tokenizer, None, None))
    one = Turn(ASKED, tokenizer, Rules(toolbox, is_enforced=True))
    samples = iter([call("add", '{"a":1,"b":1}'), final("2")])

    def sample(prompt: list[int]) -> Iterator[SampledToken]:
        grammar = grammars.of_sample(has_called=one.has_called)
        assert grammar is not None
        constraint = grammar.start()
        for token in tokenizer.encode_with_specials(next(samples)):
            constraint.advance(token)  # raises if it may not come
            yield SampledToken(0, token, -0.5)

    *_, end = run_turn(one, sample)
    assert isinstance(end, TurnEnd) and end.text == "2"
    spent = grammars.of_sample(has_called=True, calls_are_spent=True)
    assert spent is not None
    with pytest.raises(GrammarError):
        constraint = spent.start()
        for token in tokenizer.encode_with_specials(call("add", '{"a":1,"b":1}')):
            constraint.advance(token)
    refused = grammars.of_sample(has_called=False)
    assert refused is not None
    with pytest.raises(GrammarError):
        constraint = refused.start()
        for token in tokenizer.encode_with_specials(final("2")):
            constraint.advance(token)


@pytest.mark.parametrize(
    ("choice", "after"),
    [
        (ToolChoice("auto", ("f",)), ToolChoice("auto", ("f",))),
        (ToolChoice("none"), ToolChoice("none")),
        (ToolChoice("required"), ToolChoice("auto")),
        (ToolChoice("required", ("f",)), ToolChoice("auto")),
        (ToolChoice("required", ("f",), always=True), ToolChoice("auto", ("f",), always=True)),
    ],
)
def test_what_a_choice_is_after_a_call(choice: ToolChoice, after: ToolChoice) -> None:
    assert choice.after_call == after


def test_stops(tokenizer: Tokenizer) -> None:
    names = ("<|return|>", "<|call|>", "<|endoftext|>")
    assert stop_ids(tokenizer) == {tokenizer.special(name) for name in names}
