"""POST /v1/completions in-process: prompts in every form, streams and bodies, what is refused, and
how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest
from amounts import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossia.server import ScriptedEngine
from ossia.server.completions.chunks import fold
from ossia.server.wire.sampling import MAX_STOPS
from ossia.tokenizer import Tokenizer

PATH = "/v1/completions"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def stream(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks; the last line must be [DONE]."""
    answer = await client.post(PATH, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def without_names(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in ("id", "created")}


@pytest.mark.anyio
async def test_text_goes_on(client_for: Callable[..., Any], tokenizer: Tokenizer) -> None:
    async with client_for(tokenizer.encode(" goes on")) as client:
        answer = (await client.post(PATH, json={"prompt": "It", "model": "m"})).json()
        assert client.engine.submitted == [tokenizer.encode("It")]
    assert (
        answer["object"] == "text_completion"
        and answer["id"].startswith("cmpl")
        and answer["model"] == "m"
    )
    assert answer["choices"] == [
        {
            "index": 0,
            "text": " goes on",
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
    ]
    n, m = len(tokenizer.encode("It")), len(tokenizer.encode(" goes on"))
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (n, m)


@pytest.mark.anyio
async def test_prompts_in_every_form(client_for: Callable[..., Any], tokenizer: Tokenizer) -> None:
    hello, bye = tokenizer.encode("hello"), tokenizer.encode("bye")
    forms: list[tuple[Any, list[list[int]]]] = [
        ("hello", [hello]), (["hello", "bye"], [hello, bye]), (hello, [hello]),
        ([hello, bye], [hello, bye]),
        ("", [[tokenizer.special("<|endoftext|>")]]), (None,
            [[tokenizer.special("<|endoftext|>")]]),
        ("<|end|>", [tokenizer.encode("<|end|>")]),
    ]  # fmt: skip
    for prompt, wanted in forms:
        async with client_for("x<|return|>") as client:
            answer = (await client.post(PATH, json={"prompt": prompt})).json()
            assert client.engine.submitted == wanted
            assert [choice["index"] for choice in answer["choices"]] == list(range(len(wanted)))
            assert all(choice["text"] == "x" for choice in answer["choices"])
    async with client_for("x<|return|>") as client:
        await client.post(PATH, json={"prompt": "<|end|>", "parse_special": True})
        assert client.engine.submitted == [[tokenizer.special("<|end|>")]]


@pytest.mark.anyio
async def test_sixteen_tokens_unless_told(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    async with client_for(tokenizer.encode("1 2 3 4 5 6 7 8 9 " * 9)) as client:
        for wish, count in (
            ({}, 16),
            ({"max_tokens": None}, 16),
            ({"max_tokens": 3}, 3),
            ({"max_tokens": 0}, 0),
        ):
            answer = (await client.post(PATH, json={"prompt": "a", **wish})).json()
            assert answer["usage"]["completion_tokens"] == count
            assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.anyio
async def test_control_tokens_are_not_shown_unless_asked_for(
    client_for: Callable[..., Any],
) -> None:
    said = "<|channel|>final<|message|>Hi<|return|>"
    async with client_for(said) as client:
        hidden = (await client.post(PATH, json={"prompt": "a"})).json()["choices"][0]
        shown = (
            await client.post(PATH, json={"prompt": "a", "skip_special_tokens": False})
        ).json()["choices"][0]
        on = (await client.post(PATH, json={"prompt": "a", "ignore_eos": True})).json()["choices"][
            0
        ]
    assert (hidden["text"], hidden["finish_reason"]) == ("finalHi", "stop")
    assert (shown["text"], on["finish_reason"]) == (said, "length")


@pytest.mark.anyio
async def test_stop_strings_are_looked_for_in_the_text(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("one two three four")
    async with client_for(ids) as client:
        cases = [
            ({"stop": "o th"}, "one tw", "o th"), ({"stop": ["four", "three"]}, "one two ",
                "three"),
            ({"stop": "o th", "include_stop_str_in_output": True}, "one two th", "o th"),
            ({"stop": "one"}, "", "one"),
        ]  # fmt: skip
        for wish, text, stop in cases:
            body = {"prompt": "one two three", "logprobs": 0, "echo": True, **wish}
            choice = (await client.post(PATH, json=body)).json()["choices"][0]
            assert (choice["text"], choice["finish_reason"]) == ("one two three" + text, "stop")
            assert choice["stop_reason"] == stop
            assert all(
                offset < max(1, len(choice["text"])) for offset in choice["logprobs"]["text_offset"]
            )
        unfinished = (await client.post(PATH, json={"prompt": "a", "stop": "fourth"})).json()[
            "choices"
        ][0]
        assert (unfinished["text"], unfinished["finish_reason"]) == ("one two three four", "length")
        wish = {"prompt": "a", "stop_token_ids": [ids[1]]}
        named = (await client.post(PATH, json=wish)).json()["choices"][0]
        assert (named["text"], named["finish_reason"]) == (tokenizer.decode(ids[:1]), "stop")
        assert named["stop_reason"] == ids[1]


@pytest.mark.anyio
async def test_characters_come_whole(client_for: Callable[..., Any], tokenizer: Tokenizer) -> None:
    text = "naïve 世界 🎼!"
    single = [tokenizer.vocabulary[bytes([byte])] for byte in text.encode()]
    async with client_for(single) as client:
        chunks = await stream(
            client, {"prompt": "a", "max_tokens": 99, "logprobs": 0, "stop": "!!"}
        )
        cut = (
            await client.post(PATH, json={"prompt": "a", "max_tokens": len(text.encode()) - 2})
        ).json()
        # The prompt ends within a character, which the answer completes.
        split = single[:3]
        assert tokenizer.decode_bytes(split) == b"na\xc3"
    pieces = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(pieces) == text and "�" not in "".join(pieces)
    assert cut["choices"][0]["text"] == text[:-2] + "�"
    folded = fold(chunks)["choices"][0]["logprobs"]
    assert len(folded["tokens"]) == len(single)
    place = text.index("世")
    assert folded["text_offset"].count(place) == 3 and r"bytes:\xe4" in folded["tokens"]
    async with client_for(single[3:]) as client:
        for echo, wanted in ((False, "ïve 世界 🎼!"), (True, text)):
            answer = (
                await client.post(PATH, json={"prompt": split, "max_tokens": 99, "echo": echo})
            ).json()
            assert answer["choices"][0]["text"] == wanted


@pytest.mark.anyio
async def test_echo_with_logprobs_tells_those_of_the_prompt(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    prompt, said = tokenizer.encode("the prompt"), tokenizer.encode(" and more")
    async with client_for(said) as client:
        for limit in (0, 1, 9):
            body = {
                "prompt": "the prompt",
                "echo": True,
                "logprobs": 2,
                "max_tokens": limit,
                "return_token_ids": True,
            }
            choice = (await client.post(PATH, json=body)).json()["choices"][0]
            all_ids = prompt + said[:limit]
            assert choice["text"] == tokenizer.decode(all_ids)
            assert (choice["prompt_token_ids"], choice["token_ids"]) == (prompt, said[:limit])
            classic = choice["logprobs"]
            assert classic["tokens"] == [tokenizer.decode([id]) for id in all_ids]
            wanted = [None] + [-0.25] * (len(prompt) - 1) + [-0.5] * len(said[:limit])
            assert classic["token_logprobs"] == wanted
            assert classic["top_logprobs"][0] is None
            for token, value, top in [
                *zip(classic["tokens"], wanted, classic["top_logprobs"], strict=True)
            ][1:]:
                assert top[token] == value == max(top.values()) and len(top) == 2
            places = [len(tokenizer.decode(all_ids[:n])) for n in range(len(all_ids))]
            assert classic["text_offset"] == places


@pytest.mark.anyio
async def test_the_sampled_token_is_always_among_the_likeliest(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    async with client_for(tokenizer.encode("abc")) as client:
        classic = (await client.post(PATH, json={"prompt": "a", "logprobs": 0})).json()["choices"][
            0
        ]["logprobs"]
    assert [*map(len, classic["top_logprobs"])] == [1] * len(classic["tokens"])


@pytest.mark.anyio
async def test_usage_of_a_stream(client_for: Callable[..., Any], tokenizer: Tokenizer) -> None:
    async with client_for(tokenizer.encode("some text")) as client:
        plain = await stream(client, {"prompt": "a"})
        assert all(chunk["usage"] is None and chunk["choices"] for chunk in plain)
        asked = await stream(client, {"prompt": "a", "stream_options": {"include_usage": True}})
        assert asked[-1]["choices"] == [] and asked[-1]["usage"]["total_tokens"] > 1
        options = {"include_usage": True, "continuous_usage_stats": True}
        always = await stream(client, {"prompt": "a", "stream_options": options})
        counts = [chunk["usage"]["completion_tokens"] for chunk in always]
        assert counts == sorted(counts) and counts[0] == 1


@pytest.mark.anyio
async def test_n_and_best_of(tokenizer: Tokenizer, client_for: Callable[..., Any]) -> None:
    scripts = [tokenizer.encode(text) for text in ("first", "second", "third")]
    async with client_for(*scripts) as client:
        answer = (await client.post(PATH, json={"prompt": "a", "n": 3})).json()
        assert [choice["text"] for choice in answer["choices"]] == ["first", "second", "third"]
        assert answer["usage"]["prompt_tokens"] == 1
        assert answer["usage"]["completion_tokens"] == sum(map(len, scripts))
    async with client_for(*scripts) as client:
        engine: ScriptedEngine = client.engine
        step, likely = engine.step, tokenizer.encode("second")
        engine.step = lambda: [  # the second sample is the likeliest
            replace(token, logprob=-0.1 if token.token_id in likely else -0.5) for token in step()
        ]
        answer = (await client.post(PATH, json={"prompt": "a", "best_of": 3, "n": 1})).json()
        assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, "second")]
        assert answer["usage"]["completion_tokens"] == sum(map(len, scripts))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": 3}, "prompt"), ({"prompt": ["a", 3]}, "prompt"), ({"prompt": [True]}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"), ({"prompt": [10**9]}, "prompt"), ({"prompt": [-1]}, "prompt"),
    ({"prompt": [[1], [10**9]]}, "prompt[1]"), ({"prompt": {"a": 1}}, "prompt"),
    ({"suffix": "x"}, "suffix"),
    ({"max_tokens": -2}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"), ({"n": 0}, "n"),
    ({"n": 999}, "n"),
    ({"best_of": 1, "n": 2}, "best_of"), ({"best_of": 2, "stream": True}, "best_of"),
    ({"logprobs": -1}, "logprobs"),
    ({"logprobs": 999}, "logprobs"), ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"), ({"stop": ["a", ""]}, "stop"), ({"stop": 5}, "stop"),
    ({"seed": 2**70}, "seed"),
    ({"logit_bias": {"x": 1}}, "logit_bias"), ({"logit_bias": {"5": 9999}}, "logit_bias"),
    ({"logit_bias": [5]}, "logit_bias"), ({"response_format": {"type": "json_object"}},
        "response_format"),
    ({"use_beam_search": True}, "use_beam_search"), ({"stream_options": 5}, "stream_options"),
    ({"prompt": ["a"] * 2000}, "prompt"),
]  # fmt: skip


@pytest.mark.anyio
async def test_what_cannot_be_done_is_refused_by_name(client_for: Callable[..., Any]) -> None:
    async with client_for("x<|return|>") as client:
        for wish, param in REFUSED:
            for streamed in ({}, {"stream": True}):
                answer = await client.post(PATH, json={"prompt": "a", **streamed, **wish})
                assert answer.status_code == 400, (wish, answer.text)
                error = answer.json()["error"]
                assert error["type"] == "invalid_request_error" and error["message"]
                assert error["param"].split(".")[0] == param, (wish, error)
        assert client.engine.submitted == []
        harmless = {
            "prompt": "a",
            "user": "me",
            "suffix": None,
            "nonsense": [1],
            "logit_bias": {"5": 1},
        }
        assert (await client.post(PATH, json=harmless)).status_code == 200


@pytest.mark.anyio
async def test_a_prompt_beyond_the_context(client_for: Callable[..., Any]) -> None:
    async with client_for("x<|return|>") as client:
        context = client.app.state.service.context
        cases = ((context, 1, 400), (context + 1, 0, 400), (context, 0, 200), (context - 1, 1, 200))
        for count, limit, status in cases:
            answer = await client.post(PATH, json={"prompt": [5] * count, "max_tokens": limit})
            assert answer.status_code == status
            if status == 400:
                assert answer.json()["error"]["code"] == "context_length_exceeded"


@given(data=st.data())
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_body_is_the_fold_of_the_stream(
    data: st.DataObject, tokenizer: Tokenizer, client_for: Callable[..., Any]
) -> None:
    said = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=24))
    prompt = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=6))
    text = tokenizer.decode(said)
    pairs = [text[i : i + 2] for i in range(max(1, len(text) - 1))]
    stops = data.draw(st.lists(st.sampled_from(pairs), max_size=MAX_STOPS))
    body = {
        "prompt": prompt, "max_tokens": data.draw(st.integers(0, 30)),
        "echo": data.draw(st.booleans()),
        "logprobs": data.draw(st.sampled_from([None, 0, 3])),
        "stop": [stop for stop in stops if stop.strip()] or None,
        "skip_special_tokens": data.draw(st.booleans()),
        "return_token_ids": data.draw(st.booleans()),
        "n": data.draw(st.integers(1, 2)), "stream_options": {"include_usage": True},
    }  # fmt: skip

    async def check() -> None:
        async with client_for(said) as client:
            chunks = await stream(client, body)
            plain = body | {"stream_options": None}  # they need a stream
            whole = (await client.post(PATH, json=plain)).json()
        assert without_names(fold(chunks)) == without_names(whole)
        for choice in whole["choices"]:
            for stop in body["stop"] or []:
                shown = choice["text"] if not body["echo"] else ""
                assert stop not in shown
            if (classic := choice["logprobs"]) is not None:
                assert len({*map(len, classic.values())}) == 1
                assert classic["text_offset"] == sorted(classic["text_offset"])
            if body["return_token_ids"]:
                assert choice["prompt_token_ids"] == prompt
                assert choice["token_ids"] == said[: len(choice["token_ids"])]

    anyio.run(check)
