"""Training data in the shapes that people have it in: each is read as the chat that it means, or
refused in words that name the line and the way out.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_model import tiny_tokenizer, write_tiny

from ossia.commands.main import main
from ossia.data.packing import Example
from ossia.errors import DataError
from ossia.harmony import Conversation, SystemContent, render_conversation
from ossia.train.chats import Found, Reading, examples_in
from ossia.train.chats.shapes import LEARN

TOKENIZER = tiny_tokenizer()
Line = dict[str, Any]


def user(text: str) -> Line:
    return {"role": "user", "content": text}


def answer(text: str | None, **more: Any) -> Line:
    return {"role": "assistant", "content": text, **more}


def call(arguments: Any) -> Line:
    return {
        "id": "c1",
        "type": "function",
        "function": {"name": "multiply", "arguments": arguments},
    }


PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
    "required": ["a"],
}
FUNCTION = {"name": "multiply", "description": "Multiplies.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
CHAT = [user("Q?"), answer("A.")]
WITH_CALL = [
    user("Q?"),
    answer(None, tool_calls=[call('{"a": 1}')]),
    {"role": "tool", "tool_call_id": "c1", "content": "7"},
    answer("Seven."),
]


def read(folder: Path, *lines: Line | str, **reading: Any) -> tuple[list[Example], Found]:
    file = folder / "x.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts) + "\n")
    found = Found()
    examples = examples_in([file], TOKENIZER, Reading(**reading), found)
    return [example for example, _ in examples], found


def learned(examples: list[Example]) -> list[str]:
    return [
        TOKENIZER.decode([i for i, wanted in zip(e.ids, e.mask, strict=True) if wanted])
        for e in examples
    ]


def refusal(folder: Path, *lines: Line | str, **reading: Any) -> str:
    with pytest.raises(DataError) as error:
        read(folder, *lines, **reading)
    return str(error.value)


# ---- shapes --------------------------------------------------------------------------------------

SAME = [
    ({"messages": json.dumps(CHAT)}, {"messages": CHAT}),
    ({"conversations": CHAT}, {"messages": CHAT}),
    (
        {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]},
        {"messages": CHAT},
    ),
    (
        {
            "system": "Be kind.",
            "conversations": [
                {"from": "user", "value": "Q?"},
                {"from": "assistant", "value": "A."},
            ],
        },
        {"messages": [{"role": "system", "content": "Be kind."}, *CHAT]},
    ),
    (
        {
            "conversations": [
                {"from": "human", "value": "Q?"},
                {"from": "function_call", "value": '{"name": "multiply", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "7"},
                {"from": "gpt", "value": "Seven."},
            ],
            "tools": json.dumps(TOOLS),
        },
        {"messages": WITH_CALL, "tools": TOOLS},
    ),
    ({"prompt": "Q?", "completion": "A."}, {"messages": CHAT}),
    ({"prompt": CHAT[:1], "completion": CHAT[1:]}, {"messages": CHAT}),
    (
        {"prompt": WITH_CALL[:3], "completion": "Seven.", "tools": TOOLS},
        {
            "messages": [WITH_CALL[0], WITH_CALL[1] | {"train": False}, *WITH_CALL[2:]],
            "tools": TOOLS,
        },
    ),
    ({"instruction": "Q?", "output": "A."}, {"messages": CHAT}),
    ({"instruction": "Q?", "input": "", "output": "A."}, {"messages": CHAT}),
    ({"instruction": "Q?", "input": "x", "output": "A."}, {"messages": [user("Q?\n\nx"), CHAT[1]]}),
    (
        {"system": "S", "history": [["p", "q"]], "instruction": "Q?", "output": "A."},
        {"messages": [{"role": "system", "content": "S"}, user("p"), answer("q"), *CHAT]},
    ),
    ({"messages": WITH_CALL, "tools": json.dumps(TOOLS)}, {"messages": WITH_CALL, "tools": TOOLS}),
    (
        {"messages": WITH_CALL, "tools": [json.dumps(TOOLS[0])]},
        {"messages": WITH_CALL, "tools": TOOLS},
    ),
    (
        {
            "messages": WITH_CALL,
            "tools": [{"function": FUNCTION | {"parameters": json.dumps(PARAMETERS)}}],
        },
        {"messages": WITH_CALL, "tools": TOOLS},
    ),
    ({"messages": CHAT, "tools": ""}, {"messages": CHAT}),
]


@pytest.mark.parametrize(("line", "means"), SAME)
def test_each_shape_is_the_chat_that_it_means(line: Line, means: Line, tmp_path: Path) -> None:
    examples, found = read(tmp_path, line)
    wanted, _ = read(tmp_path, means)
    assert examples == wanted and any(learned(wanted)) and not found.ignored


@pytest.mark.parametrize(
    "calls",
    [json.dumps([call('{"a": 1}')]), [json.dumps(call('{"a": 1}'))], [call({"a": 1})]],
)
def test_calls_may_be_json_strings(calls: Any, tmp_path: Path) -> None:
    wanted, _ = read(tmp_path, {"messages": WITH_CALL, "tools": TOOLS})
    written = [WITH_CALL[0], answer(None, tool_calls=calls), *WITH_CALL[2:]]
    assert read(tmp_path, {"messages": written, "tools": TOOLS})[0] == wanted


HARMONY = [
    {"role": "system", "content": "Be kind."},
    user("Q?"),
    answer(None, reasoning="Hm.", tool_calls=[call('{"a": 1}')]),
    {"role": "tool", "tool_call_id": "c1", "content": "7"},
    answer("Seven.", reasoning="Easy."),
]


def harmony_text(messages: list[Line], **how: Any) -> str:
    conversation = Conversation.from_chat(messages, system=SystemContent(), tools=TOOLS)
    return TOKENIZER.decode(render_conversation(conversation, TOKENIZER, drop_analysis=False))


@pytest.mark.parametrize("between", ["", "\n"])
def test_a_text_that_is_harmony_is_read_as_its_messages(between: str, tmp_path: Path) -> None:
    text = harmony_text(HARMONY).replace("<|start|>", between + "<|start|>")
    wanted, _ = read(tmp_path, {"messages": HARMONY, "tools": TOOLS})
    assert read(tmp_path, {"text": text + between})[0] == wanted
    where = text.rindex("<|start|>assistant<|channel|>analysis")
    halves = {"prompt": text[:where] + "<|start|>assistant", "completion": text[where + 18 :]}
    assert "prompt: holds '<|start|>'" in refusal(tmp_path, halves)
    (only,), _ = read(tmp_path, halves, markup="convert")
    assert list(only.ids) == list(wanted[0].ids)
    assert learned([only])[0].startswith("<|channel|>analysis<|message|>Easy.")


def test_plain_texts_are_named_and_one_option_learns_them(tmp_path: Path) -> None:
    assert re_said(refusal(tmp_path, {"text": "Once upon a time."}), ":1: text: ", "documents=true")
    (example,), _ = read(tmp_path, {"text": "Once upon a time."}, documents=True)
    assert learned([example]) == ["Once upon a time.<|endoftext|>"]
    assert TOKENIZER.decode(example.ids[:1]) == "<|startoftext|>" and not example.mask[0]
    chatml = {"text": "<|im_start|>user\nQ?<|im_end|>"}
    assert "'<|im_start|>'" in refusal(tmp_path, chatml, documents=True)
    broken = {"text": "<|start|>user<|message|>Q?<|end|><|start|>assistant"}
    assert "text: begins as Harmony, and is not" in refusal(tmp_path, broken)


def re_said(text: str, *words: str) -> bool:
    return all(word in text for word in words)


def test_other_shapes_are_told_what_is_read(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"messages": CHAT}, {"chosen": "a", "rejected": "b"})
    assert re_said(
        said,
        "x.jsonl:2: ",
        "messages; conversations; prompt and completion; instruction and output",
    )
    assert "found chosen, rejected" in said
    (tmp_path / "a.parquet").write_bytes(b"PAR1\x15\x04")
    with pytest.raises(DataError, match=r"a\.parquet: is a Parquet file; write it as JSON lines"):
        list(examples_in([tmp_path / "a.parquet"], TOKENIZER, Reading(), Found()))


def test_errors_name_the_place_in_the_shape(tmp_path: Path) -> None:
    wrong = {
        "system": "S",
        "conversations": [{"from": "human", "value": "a"}, {"from": "robot", "value": "b"}],
    }
    assert "x.jsonl:1: conversations[1]: role must be one of" in refusal(tmp_path, wrong)
    wrong = {"prompt": "a", "completion": [answer("b", train="no")]}
    assert "completion[0].train: must be true or false" in refusal(tmp_path, wrong)


# ---- Arrow ---------------------------------------------------------------------------------------


def through_arrow(folder: Path, lines: list[Line]) -> list[Line]:
    """As they come out of a Parquet file: every key that another line has, with null."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    keys = dict.fromkeys(key for line in lines for key in line)
    table = arrow.table({key: [line.get(key) for line in lines] for key in keys})
    parquet.write_table(table, folder / "x.parquet")
    found: list[Line] = parquet.read_table(folder / "x.parquet").to_pylist()
    return found


def test_a_round_trip_through_parquet_changes_nothing(tmp_path: Path) -> None:
    other = {
        "type": "function",
        "function": {
            "name": "look",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"where": {"type": "string", "enum": ["here"], "default": "here"}},
                "additionalProperties": False,
            },
        },
    }
    with_objects = [WITH_CALL[0], answer(None, tool_calls=[call({"a": 1})]), *WITH_CALL[2:]]
    looked = answer(
        None,
        tool_calls=[
            {
                "id": "c2",
                "type": "function",
                "function": {"name": "look", "arguments": {"where": "here"}},
            }
        ],
        reasoning="Hm.",
        train=True,
    )
    own = Conversation.from_chat(CHAT, system=None).to_dict()["messages"]
    lines = [
        {"messages": CHAT},
        {"messages": with_objects, "tools": TOOLS, "reasoning_effort": "low"},
        {"messages": [user("Q?"), looked, answer("B.", weight=0)], "tools": [other, *TOOLS]},
        {"messages": own},
        {"prompt": "Q?", "completion": "A."},
        {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]},
    ]
    back = through_arrow(tmp_path, lines)
    assert back[1]["tools"][0]["function"]["parameters"]["properties"]["where"] is None
    for line, filled in zip(lines, back, strict=True):
        examples, found = read(tmp_path, filled)
        assert examples == read(tmp_path, line)[0] and not found.ignored
    text = TOKENIZER.decode(list(read(tmp_path, back[1])[0][0].ids))
    assert "null" not in text


def test_nulls_that_mean_something_stay(tmp_path: Path) -> None:
    properties = {"a": {"type": ["number", "null"], "default": None}, "b": {"enum": ["x", None]}}
    parameters = {"type": "object", "properties": properties, "required": ["a"]}
    tools = [{"function": FUNCTION | {"parameters": parameters}}]
    nulls = answer(None, tool_calls=[call({"a": None, "b": None})])
    (example,), _ = read(tmp_path, {"messages": [user("Q?"), nulls], "tools": tools})
    assert '<|message|>{"a": null}<|call|>' in learned([example])[0]
    assert "default: null" in TOKENIZER.decode(list(example.ids))
    in_a_string = answer(None, tool_calls=[call('{"a": null, "b": null}')])
    (example,), _ = read(tmp_path, {"messages": [user("Q?"), in_a_string], "tools": tools})
    assert '{"a": null, "b": null}' in learned([example])[0]


# ---- what is not learned -------------------------------------------------------------------------


SAYS_NO = ("train", "loss", "trainable", "training", "train_on_turn", "loss_mask", "weight")


def test_no_other_key_says_no() -> None:
    assert sorted(LEARN) == sorted(SAYS_NO)


@pytest.mark.parametrize("key", SAYS_NO)
@pytest.mark.parametrize("no", [False, 0, 0.0])
def test_every_key_that_says_no_is_honoured(key: str, no: Any, tmp_path: Path) -> None:
    messages = [user("a"), answer("BAD", **{key: no}), user("b"), answer("good", **{key: 1})]
    examples, found = read(tmp_path, {"messages": messages})
    assert learned(examples) == ["<|channel|>final<|message|>good<|return|>"] and not found.ignored
    share_gpt = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "BAD", key: no}]
    good = {"prompt": "Q?", "completion": "A."}
    examples, found = read(tmp_path, {"conversations": share_gpt}, good | {key: no}, good)
    assert len(examples) == 1 and found.unlearned == 2
    other = "weight" if key == "train" else "train"
    wrong = {"messages": [user("a"), answer("b", **{key: no, other: True})]}
    assert re_said(refusal(tmp_path, wrong), "messages[1]: ", key, other, "give one of them")
    wrong = {"messages": [user("a"), answer("b", **{key: "no"})]}
    assert f"messages[1].{key}: must be {LEARN[key]}, found 'no'" in refusal(tmp_path, wrong)


def test_parts_of_a_message_cannot_be_chosen(tmp_path: Path) -> None:
    wrong = {
        "messages": [user("a"), answer("b", train_detail=[{"begin_offset": 0, "train": False}])]
    }
    assert "messages[1].train_detail: parts of a message cannot" in refusal(tmp_path, wrong)


def test_unknown_keys_are_reported_once_with_count_and_first_line(tmp_path: Path) -> None:
    lines = [
        {"messages": CHAT},
        {"messages": [user("a") | {"mood": 1}, answer("b", mood=2)], "id": 7, "source": None},
        {"messages": CHAT, "id": 8, "weight": 0.5},
        {"messages": [user("a"), answer(None, tool_calls=[call("{}") | {"mood": 1}])]},
    ]
    said = str(read(tmp_path, *lines)[1])
    assert re.findall(r"(\S+) \((\d+)\), first in \S+x\.jsonl:(\d)", said) == [
        ("id", "2", "2"),
        ("messages[].mood", "2", "2"),
        ("messages[].tool_calls[].mood", "1", "4"),
        ("weight", "1", "3"),
    ]


# ---- markup --------------------------------------------------------------------------------------

WORDS = ["<|start|>", "<|end|>", "<|channel|>", "<|return|>", "<|im_end|>", "<think>", "</think>"]


@pytest.mark.parametrize("word", WORDS)
def test_markup_in_texts_stops_the_run_with_its_line(word: str, tmp_path: Path) -> None:
    dirty = f"a{word}b"
    parts = [{"type": "text", "text": dirty}]
    for messages, place in (
        ([user("Q?"), answer(dirty)], "messages[1]"),
        ([user("Q?"), answer("A.", reasoning=dirty)], "messages[1].reasoning"),
        ([user("Q?"), answer("A.") | {"content": parts}], "messages[1]"),
        ([user(dirty), answer("A.")], "messages[0]"),
        ([{"role": "system", "content": dirty}, *CHAT], "messages[0]"),
        ([user("Q?"), answer(dirty, channel="final")], "messages[1]"),
        (
            [user("Q?"), answer(None, tool_calls=[call({"a": [dirty]})])],
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            [user("Q?"), answer(None, tool_calls=[call(json.dumps({"a": dirty}))])],
            "messages[1].tool_calls[0].function.arguments",
        ),
    ):
        said = refusal(tmp_path, {"messages": CHAT}, {"messages": messages})
        assert f"x.jsonl:2: {place}: holds {word!r}" in said and "markup=convert" in said
    (example,), _ = read(tmp_path, {"messages": [user("Q?"), answer(dirty)]}, markup="keep")
    assert learned([example]) == [f"<|channel|>final<|message|>a{word}b<|return|>"]


CONVERTED = [
    ("<think>Hm.</think>A.", [answer("A.", reasoning="Hm.")]),
    ("<think>\nHm.\n</think>\n\nA.", [answer("A.", reasoning="Hm.")]),
    ("Hm.\n</think>\n\nA.", [answer("A.", reasoning="Hm.")]),
    ("<think>\n\n</think>\n\nA.", [answer("A.")]),
    (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A.",
        [answer("A.", reasoning="Hm.")],
    ),
    ("<|start|>assistant<|channel|>final<|message|>A.<|return|>", [answer("A.")]),
    (
        "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.multiply <|constrain|>json<|message|>{"a": 1}<|call|>',
        [answer("Wait.", tool_calls=[call('{"a": 1}')])],
    ),
]


@pytest.mark.parametrize(("content", "means"), CONVERTED)
def test_markup_can_be_made_what_it_means(content: str, means: list[Line], tmp_path: Path) -> None:
    for about in ({}, {"train": False}):
        said = [user("Q?"), answer(content) | about, user("R?"), answer("B.")]
        wanted = [user("Q?"), *(m | about for m in means), user("R?"), answer("B.")]
        line = {"messages": said, "tools": TOOLS}
        examples, _ = read(tmp_path, line, markup="convert")
        assert examples == read(tmp_path, line | {"messages": wanted})[0]
    assert ":1: messages[1]: holds " in refusal(tmp_path, line)


@pytest.mark.parametrize(
    "content",
    [
        "A.<|end|>",
        "<think>never ends",
        "<think>One.</think><think>Two.</think>A.",
        "<|start|>user<|message|>I<|end|>",
        "A<|im_end|>",
        "<|channel|>commentary to=python<|message|>1<|call|>",
    ],
)
def test_what_cannot_be_converted_stops_the_run(content: str, tmp_path: Path) -> None:
    wrong = {"messages": [user("Q?"), answer(content)]}
    said = refusal(tmp_path, wrong, markup="convert")
    assert "x.jsonl:1: messages[1]: " in said and "let markup=convert" not in said


def test_what_others_say_stays_text_where_markup_is_converted(tmp_path: Path) -> None:
    asked = [user("What does <think> mean?"), answer("<think>Hm.</think>A tag.")]
    (example,), _ = read(tmp_path, {"messages": asked}, markup="convert")
    assert "What does <think> mean?" in TOKENIZER.decode(list(example.ids))


BEGINNING = "<|start|>user<|message|>Q?<|end|>"
REST = "<|start|>assistant<|channel|>final<|message|>A.<|return|>"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"text": BEGINNING + REST, "system": "Be kind."}, "system: has no place"),
        ({"text": "Once.", "system": "Be kind."}, "system: has no place beside text"),
        ({"text": "Once.", "tools": TOOLS}, "tools: has no place beside text"),
        (
            {"prompt": BEGINNING, "completion": REST, "system": "Be kind."},
            "prompt: is Harmony's text, which",
        ),
        ({"prompt": BEGINNING, "completion": [answer("A.")]}, "found prompt, completion[0]: write"),
    ],
)
def test_what_would_be_lost_beside_a_text_is_named(line: Line, said: str, tmp_path: Path) -> None:
    found = refusal(tmp_path, line, markup="convert", documents=True)
    assert re_said(found, "x.jsonl:1: ", said)


@pytest.mark.parametrize(
    "schema", [{"required": True}, {"properties": [1]}, {"items": [1], "required": "a"}]
)
def test_schemas_of_other_drafts_lose_no_line(schema: Line, tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "object", **schema}}}
    tools = [{"type": "function", "function": FUNCTION | {"parameters": parameters}}]
    messages = [user("Q?"), answer(None, tool_calls=[call({"a": {"b": None, "c": 1}})])]
    (example,), _ = read(tmp_path, {"messages": messages, "tools": tools})
    assert '{"a": {"c": 1}}' in learned([example])[0].replace('":', '": ').replace(":  ", ": ")


# ---- lines that are refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"messages": [], "messages": []}', "messages: stands twice in one object"),
        ('{"messages": [{"role": "user", "role": "user", "content": "a"}]}', "role: stands twice"),
        (
            json.dumps({"messages": CHAT, "tools": '[{"name": "a", "name": "b"}]'}),
            "name: stands twice",
        ),
        (json.dumps({"messages": CHAT, "tools": {}}), "tools: must be a list, found an object"),
        (json.dumps({"messages": CHAT, "tools": False}), "tools: must be a list, found a bool"),
        (json.dumps({"messages": CHAT, "tools": "{}"}), "tools: must be a list, found an object"),
        (json.dumps({"messages": CHAT, "tools": "[{"}), "tools: a string that is not JSON"),
        (
            json.dumps({"messages": [user("a"), answer("b", tool_calls={})]}),
            "messages[1].tool_calls: must be a list",
        ),
        (json.dumps({"messages": "Q?"}), "messages: a string that is not JSON"),
        (json.dumps([{"messages": CHAT}]), "expected an object, found a list; the file must hold"),
        (json.dumps({"prompt": "Q?", "response": "A."}), "rename response to completion"),
        (
            json.dumps({"question": "Q?", "answer": "A."}),
            "rename question to prompt and answer to completion",
        ),
        (json.dumps({"instruction": "Q?", "response": "A."}), "rename response to output"),
        (json.dumps({"conversation": CHAT}), "rename conversation to messages"),
        (
            json.dumps({"prompt": "Q?", "chosen": "A.", "rejected": "B."}),
            "rename chosen to completion",
        ),
        (json.dumps({"input": "Q?", "output": "A."}), "rename input to instruction"),
        (json.dumps({"content": "A."}), "rename content to text"),
        (
            json.dumps({"prompt": 1, "completion": "A."}),
            "prompt: must be a list of messages, found a int",
        ),
        (
            json.dumps({"instruction": "a", "output": ["b"]}),
            "output: must be a string, found a list",
        ),
        (
            json.dumps({"instruction": "a", "output": "b", "history": [["c"]]}),
            "history[0]: must be [question, answer]",
        ),
        (json.dumps({"system": 1, "messages": CHAT}), "system: must be a string"),
        (
            json.dumps({"conversations": [{"from": "function_call", "value": "[1]"}]}),
            "conversations[0]: must be a call",
        ),
    ],
)
def test_lines_that_lose_something_are_refused(line: str, said: str, tmp_path: Path) -> None:
    assert re_said(refusal(tmp_path, {"messages": CHAT}, line), "x.jsonl:2: ", said)


# ---- the dry run ---------------------------------------------------------------------------------


def test_a_dry_run_reads_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "base")
    words = ["train", "sft", "data=x.jsonl", "model=base", "--dry-run"]
    read(tmp_path, {"messages": CHAT, "id": 1})
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "data: 1 conversations" in out and "id (1), first in x.jsonl:1" in out
    assert main([*words, "--json"]) == 0
    assert "1 conversations" in json.loads(capsys.readouterr().out)["found"]["data"]
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": CHAT}) + '\n{"messages": 1}\n')
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "x.jsonl:2: messages: must be a list" in shown.err and "memory" in shown.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "x.jsonl"]
