"""Fine-tuning on chats: what is learned of them, what is wrong with them, their order, and the
recipe end to end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import tiny_tokenizer, write_tiny

from ossia.batch import Batch
from ossia.checkpoint import load, open_checkpoint
from ossia.config import ModelConfig, account
from ossia.data.packing import Example, pack
from ossia.errors import ConfigError, DataError, HarmonyError, ModelNotFoundError
from ossia.harmony import Conversation, SystemContent, render_for_completion
from ossia.train import overrides
from ossia.train.chats.encode import Found, Reading, chat_of, examples_in, examples_of, is_held_out
from ossia.train.chats.store import ChatExamples, Collector
from ossia.train.pipeline import run_pipeline
from ossia.train.recipes import sft

TOKENIZER = tiny_tokenizer()
USER, SECOND = {"role": "user", "content": "What is 3?"}, {"role": "user", "content": "And 4?"}
ANSWER = {"role": "assistant", "reasoning": "three it is", "content": "It is 3."}
LAST = {"role": "assistant", "reasoning_content": "four then", "content": "It is 4."}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}},
}
WITH_TOOL = [
    USER,
    {"role": "assistant", "thinking": "use the tool", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ANSWER,
]


def learned(example: Example) -> str:
    """The text of the tokens that count."""
    return TOKENIZER.decode(
        [i for i, wanted in zip(example.ids, example.mask, strict=True) if wanted]
    )


def rendered(messages: Sequence[Any], turns: Any = "all", **line: Any) -> list[Example]:
    return examples_of(chat_of({"messages": list(messages), **line}, Reading()), TOKENIZER, turns)


# ---- what is learned ----


def test_every_turn_is_learned_in_the_context_in_which_it_would_be_answered() -> None:
    """What stands before the learned tokens is, id for id, the prompt that inference would
    build.
    """
    first, second = rendered([USER, ANSWER, SECOND, LAST])
    assert learned(first) == "<|channel|>analysis<|message|>three it is<|end|>" + (
        "<|start|>assistant<|channel|>final<|message|>It is 3.<|return|>"
    )
    assert learned(second) == "<|channel|>analysis<|message|>four then<|end|>" + (
        "<|start|>assistant<|channel|>final<|message|>It is 4.<|return|>"
    )
    for example, messages in ((first, [USER]), (second, [USER, ANSWER, SECOND])):
        prompt = render_for_completion(
            Conversation.from_chat(messages, system=SystemContent()), TOKENIZER
        )
        assert list(example.ids[: len(prompt)]) == prompt and not any(example.mask[: len(prompt)])
        assert all(example.mask[len(prompt) :])
    text = TOKENIZER.decode(list(second.ids))
    assert "three it is" not in text and "It is 3." in text  # reasoning of a finished turn is gone


def test_the_last_turn_alone() -> None:
    (only,) = rendered([USER, ANSWER, SECOND, LAST], turns="last")
    assert only == rendered([USER, ANSWER, SECOND, LAST])[1]


def test_a_turn_with_a_tool_keeps_its_reasoning_and_learns_no_result() -> None:
    (only,) = rendered(WITH_TOOL, tools=[TOOL])
    text = learned(only)
    assert text == (
        "<|channel|>analysis<|message|>use the tool<|end|><|start|>assistant"
        '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>'
        "<|channel|>analysis<|message|>three it is<|end|>"
        "<|start|>assistant<|channel|>final<|message|>It is 3.<|return|>"
    )
    whole = TOKENIZER.decode(list(only.ids))
    assert "type add" in whole and "functions.add to=assistant" in whole


@pytest.mark.parametrize("off", [{"train": False}, {"weight": 0}, {"weight": 0.0}])
def test_messages_that_are_not_to_be_learned(off: dict[str, Any]) -> None:
    (only,) = rendered([USER, ANSWER | off, SECOND, LAST])
    assert "It is 4." in learned(only) and "It is 3." not in learned(only)
    (first, second) = rendered(
        [*WITH_TOOL[:1], WITH_TOOL[1] | off, *WITH_TOOL[2:], SECOND, LAST], tools=[TOOL]
    )
    assert learned(first).startswith(
        "<|channel|>analysis<|message|>three it is"
    ) and "use the tool" not in learned(first)
    assert "use the tool" in TOKENIZER.decode(list(first.ids)) and "It is 4." in learned(second)
    assert rendered([USER, ANSWER | off]) == []
    assert (
        rendered([USER, ANSWER | {"weight": 1}])
        == rendered([USER, ANSWER])
        == rendered([USER, ANSWER | {"train": True}])
    )


def test_harmonys_own_form_means_the_same() -> None:
    chat = {"messages": [{"role": "system", "content": "Be brief."}, USER, ANSWER, SECOND, LAST]}
    data = Conversation.from_chat(chat["messages"], system=SystemContent(effort="high")).to_dict()
    ours = rendered(chat["messages"], reasoning_effort="high")
    assert examples_of(chat_of(data, Reading()), TOKENIZER, "all") == ours
    data["messages"][-1]["train"] = False  # the final answer of the last turn
    assert learned(examples_of(chat_of(data, Reading()), TOKENIZER, "all")[-1]) == (
        "<|channel|>analysis<|message|>four then<|end|>"
    )


def test_efforts_dates_and_turns_without_an_answer() -> None:
    (low,) = rendered([USER, ANSWER], reasoning_effort="low")
    assert "Reasoning: low" in TOKENIZER.decode(list(low.ids))
    dated = examples_of(
        chat_of({"messages": [USER, ANSWER]}, Reading(effort="high", date="2026-01-02")),
        TOKENIZER,
        "all",
    )
    assert "Current date: 2026-01-02" in TOKENIZER.decode(list(dated[0].ids))
    assert "Reasoning: high" in TOKENIZER.decode(list(dated[0].ids))
    assert rendered([USER, ANSWER, SECOND]) == rendered([USER, ANSWER])
    unfinished = rendered(WITH_TOOL[:2], tools=[TOOL])
    assert learned(unfinished[0]).endswith("<|call|>")


def test_the_lines_in_the_documentation_can_be_learned() -> None:
    page = (Path(__file__).parents[3] / "docs" / "fine-tuning.md").read_text()
    block = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert block is not None
    lines = [json.loads(line) for line in block[1].splitlines()]
    texts = [
        [learned(e) for e in examples_of(chat_of(line, Reading()), TOKENIZER, "all")]
        for line in lines
    ]
    assert len(texts) == 3 and all(len(examples) == 1 for examples in texts)
    assert (
        texts[2] == ["<|channel|>final<|message|>HELLO!<|return|>"]
        and "functions.multiply" in texts[1][0]
    )


word = st.text("ab é", min_size=1, max_size=4)
assistant = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": word}, optional={"reasoning": word}
)
chats = st.lists(
    st.one_of(st.builds(lambda t: {"role": "user", "content": t}, word), assistant),
    min_size=1,
    max_size=7,
)


@given(chats)
def test_every_assistant_message_is_learned_exactly_once(messages: list[dict[str, Any]]) -> None:
    """However turns are cut, and whatever is dropped from their contexts."""
    numbered = [m | {"content": f"<{n}>" + m["content"]} for n, m in enumerate(messages)]
    try:
        examples = rendered(numbered)
    except HarmonyError as error:
        assert "none is the assistant's" in str(error) and not any(
            m["role"] == "assistant" for m in messages
        )
        return
    text = "".join(map(learned, examples))
    for n, message in enumerate(messages):
        assert text.count(f"<{n}>") == (message["role"] == "assistant")


def calling(arguments: Any) -> dict[str, Any]:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "multiply", "arguments": arguments},
    }
    return {"role": "assistant", "tool_calls": [call]}


def test_a_broken_call_may_be_read_but_not_learned() -> None:
    broken = calling('{"a": 1') | {"train": False}
    result = {"role": "tool", "tool_call_id": "c1", "content": "not JSON"}
    [example] = rendered([USER, broken, result, ANSWER])
    assert '{"a": 1' not in learned(example) and "It is 3." in learned(example)
    # an object instead of its text, as some write
    [same] = rendered([USER, calling({"a": 1}), result, ANSWER])
    assert '{"a": 1}' in learned(same)


# ---- what is wrong ----


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"not JSON.*one JSON object a line"),
        ("[1]", r"expected an object, found a list; the file must"),
        ('{"messages": []}', r"messages: must be a list of messages, found nothing"),
        ('{"messages": [{"role": "user", "content": "a"}]}', r"messages: none is the assistant's"),
        ('{"messages": [{"role": "robot", "content": "a"}]}',
            r"messages\[0\]: role must be one of"),
        ('{"messages": ["a"]}', r"messages\[0\]: must be an object, found a str"),
        (json.dumps({"messages": [USER, ANSWER | {"weight": 0.5}]}),
            r"messages\[1\]\.weight: must be 0 or 1, found"),
        (json.dumps({"messages": [USER, ANSWER | {"train": "no"}]}),
            r"messages\[1\]\.train: must be true or false"),
        (json.dumps({"messages": [USER, ANSWER | {"train": True, "weight": 0}]}),
            r"messages\[1\]: train is True and"),
        (json.dumps({"messages": [USER | {"train": True}, ANSWER]}),
            r"messages\[0\]: only the assistant's"),
        (json.dumps({"messages": [USER, ANSWER | {"content": 3}]}),
            r"messages\[1\]: content must be"),
        (json.dumps({"messages": [USER, ANSWER], "reasoning_effort": "huge"}),
            r"reasoning_effort: unknown"),
        (json.dumps({"messages": [USER, ANSWER], "tools": [{}]}),
            r"tools\[0\]: a function tool needs a name"),
        (json.dumps({"messages": [USER, ANSWER], "functions": []}),
            r"functions: is the old form; use tools"),
        (json.dumps({"messages": [USER, ANSWER | {"function_call": {}}]}),
            r"messages\[1\]\.function_call: is the old"),
        (json.dumps({"messages": WITH_TOOL[2:]}),
            r"messages\[0\]: no call before it has the tool_call_id 'c1'"),
        (json.dumps({"messages": [ANSWER | {"channel": "final"}], "tools": [TOOL]}),
            r"tools: messages with channels"),
        ('{"messages": [{"role": "assistant", "channel": "final", "content": 1}]}',
            r"messages\[0\]: content"),
        (json.dumps({"messages": [USER, calling('{"a": 1')]}),
            r"messages\[1\]\.tool_calls\[0\].*must be a JSON"),
        (json.dumps({"messages": [USER, calling("[1]")]}),
            r"messages\[1\]\.tool_calls\[0\].*it is a list"),
        (json.dumps({"messages": [USER, calling(7)]}),
            r"messages\[1\]\.tool_calls\[0\].*it is a int"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    good = json.dumps({"messages": [USER, ANSWER]})
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{good}\n\n{line}\n{good}\n")
    with pytest.raises(DataError, match=rf"chats\.jsonl:3: {message}"):
        list(examples_in([path], TOKENIZER, Reading(), Found()))
    found = Found()
    assert len(list(examples_in([path], TOKENIZER, Reading(), found, skip_bad=1))) == 2
    assert len(found.bad) == 1 and f"{path}:3" in str(found) and found.duplicates == 1


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"messages": "\xff"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: byte 14 of the line is not UTF-8"):
        list(examples_in([tmp_path / "a.jsonl"], TOKENIZER, Reading(), Found()))
    with pytest.raises(DataError, match=r"b\.jsonl: cannot be read"):
        list(examples_in([tmp_path / "b.jsonl"], TOKENIZER, Reading(), Found()))
    (tmp_path / "c.jsonl").write_text("\n" * 3)
    with pytest.raises(DataError, match="no conversation to learn from"):
        list(examples_in([tmp_path / "c.jsonl"], TOKENIZER, Reading(), Found()))


def test_more_bad_lines_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("{}\n" * 30)
    with pytest.raises(
        DataError, match=r"(?s)chats\.jsonl:1: .*chats\.jsonl:5: .*and more.\nMend them.*skip_bad"
    ):
        list(examples_in([path], TOKENIZER, Reading(), Found(), skip_bad=3))


def test_examples_that_are_too_long_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    chats = [[USER, ANSWER], [USER | {"content": "long " * 200}, ANSWER]]
    path.write_text("\n".join(json.dumps({"messages": chat, "id": 7}) for chat in chats))
    found, longest = Found(), len(rendered(chats[0])[0].ids) - 1
    kept = list(examples_in([path], TOKENIZER, Reading(longest=longest), found))
    assert [example for example, _ in kept] == rendered(chats[0])
    assert (found.too_long, found.examples, found.tokens) == (1, 1, longest) and found.longest > 200
    assert "1 examples that are too long" in str(found) and "id (2)" in str(found)
    with pytest.raises(
        DataError, match=r"all 2 examples are longer than 10 tokens.*hyper\.longest"
    ):
        list(examples_in([path], TOKENIZER, Reading(longest=10), Found()))


def test_conversations_are_held_out_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    lines = [
        json.dumps({"messages": [USER | {"content": str(n % 150)}, ANSWER, SECOND, LAST]})
        for n in range(300)
    ]
    path.write_text("\n".join(lines))
    found = Found()
    kept = list(examples_in([path], TOKENIZER, Reading(held_out=0.2), found))
    side = {tuple(example.ids): held_out for example, held_out in kept}
    assert len(side) == 300 and found.duplicates == 150
    assert [held_out for _, held_out in kept[:300]] == [held_out for _, held_out in kept[300:]]
    # both turns of a chat
    assert all(a == b for (_, a), (_, b) in zip(kept[::2], kept[1::2], strict=True))
    assert 0.1 < found.held_out / 600 < 0.3 and found.held_out + found.examples == 600
    path.write_text("\n".join(reversed(lines)))
    again = list(examples_in([path], TOKENIZER, Reading(held_out=0.2), Found()))
    assert {tuple(example.ids): held_out for example, held_out in again} == side
    assert not is_held_out(b"\0" * 16, 0.0) and is_held_out(b"\xff" * 16, 1.0)


# ---- the stream ----


def stored(path: Path, count: int) -> ChatExamples:
    collector = Collector()
    for n in range(count):
        collector.add(Example([n] * (n % 5 + 2), [False] + [n % 2 == 0] * (n % 5 + 1)))
    collector.write(path)
    return ChatExamples(path, seed=3)


@given(st.integers(1, 30), st.integers(0, 100))
def test_the_stream_is_every_example_once_an_epoch_and_resumes(count: int, start: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        data = stored(Path(folder) / "x.safetensors", count)
        whole = list(islice(data(), start + 2 * count))
        assert [state for _, state in whole] == list(range(1, len(whole) + 1))
        resumed = list(islice(data(start or None), 2 * count))
        assert [e for e, _ in resumed] == [e for e, _ in whole[start:]]
        for epoch in range(2):
            chosen = [int(e.ids[0]) for e, _ in whole[epoch * count : (epoch + 1) * count]]
            assert sorted(chosen) == list(range(count))
        assert [int(e.ids[0]) for e in data.each()] == list(range(count)) and len(data) == count


def test_epochs_differ_and_are_counted_in_packed_steps(tmp_path: Path) -> None:
    data = stored(tmp_path / "x.safetensors", 50)
    order = [int(e.ids[0]) for e, _ in islice(data(), 100)]
    assert order[:50] != order[50:] and order[:50] != list(range(50))
    assert order != [int(e.ids[0]) for e, _ in islice(ChatExamples(data.path, seed=4)(), 100)]
    steps = data.steps(3.0, 40, 30)
    states = [state for _, state in islice(pack(data(), 40, 30), steps)]
    assert states[-1] >= 150 > states[-2] and data.steps(0.001, 40, 30) == 1
    with pytest.raises(DataError, match="go on from"):
        next(data({"epoch": 1}))


# ---- the recipe ----


def write_chats(path: Path, count: int = 30) -> Path:
    lines = [
        {"messages": [USER | {"content": f"What is {n}?"}, ANSWER, SECOND, LAST]}
        for n in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def config(tmp_path: Path, *more: str) -> sft.Config:
    if not (tmp_path / "base").exists():
        write_tiny(tmp_path / "base")
        write_chats(tmp_path / "chats.jsonl")
    given = [
        f"data={tmp_path / 'chats.jsonl'}",
        f"model={tmp_path / 'base'}",
        "held_out=0.2",
        "hyper.shards=1",
    ]
    given += ["hyper.tokens_per_step=600", "hyper.longest=500", "hyper.peak_lr=5e-3", "steps=12"]
    made: sft.Config = overrides.apply(sft.Config(), [*given, *more])
    return made


@pytest.mark.parametrize(
    ("more", "exact"),
    [
        (("lora.rank=4", "lora.experts=false"), True),
        (("lora.attention=false", "quantize=true", "rule=best", "layout=original"), True),
        (("method=full", "quantize=true"), False),  # everything else is rounded to bfloat16
        (("method=full", "layout=hf-bf16"), False),
        ((), None),
    ],
)
def test_chats_become_a_checkpoint(
    more: tuple[str, ...], exact: bool | None, tmp_path: Path
) -> None:
    """In four phases; what is written says what was learned, and loads as models do."""
    from ossia.llm import load as load_llm

    out, chosen = tmp_path / "run", config(tmp_path, *more)
    outcomes = run_pipeline(sft.phases(chosen, out), out)
    assert [o.name for o in outcomes] == ["data", "train", "export", "check"] and not any(
        o.skipped for o in outcomes
    )
    report = json.loads((out / "check" / "report.json").read_text())
    assert report["examples"] == "held-out" and report["trained"] < report["before"] - 0.5
    assert report["written"] < report["before"] - 0.5
    if exact is not None:
        tolerance = 2e-2 if exact else 5e-2  # attention is stored in bfloat16
        assert report["written"] == pytest.approx(report["trained"], abs=tolerance)
    assert open_checkpoint(out / "model").layout == chosen.layout
    assert load_llm(out / "model", dtype="float32").tokenizer.vocab_size == TOKENIZER.vocab_size
    assert all(o.skipped for o in run_pipeline(sft.phases(chosen, out), out))


def test_the_loss_is_that_of_each_example_by_itself(tmp_path: Path) -> None:
    chosen, out = config(tmp_path), tmp_path / "run"
    found = sft.prepare(chosen, out / "data")
    data = ChatExamples(out / "data" / sft.TRAIN)
    assert len(data) == found.examples > 0
    model = load(tmp_path / "base", "float32")
    total, count = 0.0, 0
    for example in data.each():
        ids = torch.tensor(example.ids[:-1].astype("int64"))
        with torch.no_grad():
            scores = model(ids, Batch.packed([len(ids)])).log_softmax(-1)
        for n, wanted in enumerate(example.mask[1:]):
            total, count = (
                total - float(scores[n, int(example.ids[n + 1])]) * bool(wanted),
                count + bool(wanted),
            )
    assert count == found.learned
    assert sft.mean_loss(model, data.each(), 600, 500) == pytest.approx(total / count, rel=1e-5)
    assert sft.mean_loss(model, islice(data.each(), 1), 10**4, 500) > 0


def test_other_data_is_another_run(tmp_path: Path) -> None:
    """A file that was changed meanwhile is noticed, however it is called."""
    chosen, out = config(tmp_path, "steps=1"), tmp_path / "run"
    run_pipeline(sft.phases(chosen, out)[:2], out)
    write_chats(tmp_path / "chats.jsonl", 31)
    with pytest.raises(ConfigError, match="data was"):
        run_pipeline(sft.phases(chosen, out)[:2], out)


def test_runs_that_name_no_markup_kept_it(tmp_path: Path) -> None:
    """So did those of versions that had no such setting."""
    named = {
        word: sft._settings(config(tmp_path, f"markup={word}"))[0] for word in ("stop", "keep")
    }
    assert named["stop"]["markup"] == "stop" and "markup" not in named["keep"]


def test_what_cannot_be_done_is_said_before_anything_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data=FILE"):
        sft.phases(sft.Config(), tmp_path)
    with pytest.raises(ConfigError, match="is a folder: name the files in it"):
        sft.phases(sft.Config(data=(tmp_path,)), tmp_path)
    with pytest.raises(ModelNotFoundError):
        sft.phases(config(tmp_path, "model=no-such"), tmp_path / "run")
    for wrong, message in (
        ("held_out=1", "held_out"), ("epochs=0", "epochs"), ("skip_bad=-1", "skip_bad"),
        ("steps=0", "steps"), ("epochs=nan", "epochs must be float"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            config(tmp_path, wrong)
    with pytest.raises(ConfigError, match="epochs must be more than 0"):
        sft.Config(epochs=math.inf)
    with pytest.raises(ConfigError, match="choose one"):
        config(tmp_path, "quantize=true", "layout=hf-bf16")
    with pytest.raises(ConfigError, match="choose one"):
        config(tmp_path, "quantize=true", "lora.experts=false")
    # no download for a plan
    planned = sft.phases(config(tmp_path, "model=gpt-oss-20b"), tmp_path / "run")
    assert planned[2].disk == account(ModelConfig.preset("gpt-oss-20b")).checkpoint_bytes
    assert (
        planned[1].config is not None
        and planned[1].config.num_hidden_layers == 24
        and planned[1].lora is not None
    )
