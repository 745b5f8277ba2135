"""The parser on generated streams: random tokens, what we render, and what the official parser reads."""

from __future__ import annotations

import random
import time
from typing import Any

from ossia.errors import ParseError
from ossia.harmony import Message, parse_completion, render_message
from ossia.tokenizer import Tokenizer


def ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_with_specials(text)


def random_stream(rng: random.Random, tokenizer: Tokenizer) -> tuple[list[int], list[str]]:
    """Specials, header words, half characters, ids that do not exist, unique words; and the latter."""
    specials = [*tokenizer.specials.values()][:12] + [tokenizer.special(n) for n in ("<|start|>", "<|message|>")]
    words = [
        "assistant",
        "user",
        "analysis",
        "commentary",
        "final",
        " to=f",
        " json",
        " ",
        "\n",
        "é",
        "?",
        "👍",
    ]
    ids: list[int] = []
    unique: list[str] = []
    for position in range(rng.randrange(40)):
        kind = rng.random()
        if kind < 0.45:
            ids.append(rng.choice(specials))
        elif kind < 0.75:
            ids += tokenizer.encode(rng.choice(words))
        elif kind < 0.9:
            unique.append(f"Q{position}q")
            ids += tokenizer.encode(f" {unique[-1]}")
        else:
            ids.append(rng.choice([rng.randrange(tokenizer.vocab_size), tokenizer.vocab_size, -1, 200]))
    return ids, unique


def test_random_streams(tokenizer: Tokenizer, small_tokenizer: Tokenizer, checked: Any) -> None:
    """Nothing raises, the events add up, no word vanishes: it is content, a field, or noted as dropped."""
    for seed in range(3000):
        rng = random.Random(seed)
        vocabulary = rng.choice([tokenizer, small_tokenizer])
        ids, unique = random_stream(rng, vocabulary)
        parser, _ = checked(ids, vocabulary, rng.choice([None, "assistant", "user"]))
        found = " ".join(" ".join(map(str, vars(m).values())) for m in parser.messages)
        dropped = "".join(repair.seen for repair in parser.repairs)
        for word in unique:
            assert word in found or word in dropped, (seed, word)


def test_what_is_rendered_is_parsed_back(tokenizer: Tokenizer, small_tokenizer: Tokenizer, checked: Any) -> None:
    """Messages whose fields are single words come back equal, with nothing to repair."""
    texts = ["", "hello", " spaced \n", "é 👍", "<|end|><|start|>user", "analysis to=f", '{"a": 1}']
    for seed in range(600):
        rng = random.Random(seed)
        messages = []
        for _ in range(rng.randrange(6)):
            role = rng.choice(["user", "assistant", "system", "developer", "tool"])
            name = rng.choice(["ann", "functions.f", "<|end|>"]) if role == "tool" or rng.random() < 0.2 else None
            channel = rng.choice([None, "analysis", "commentary", "final", "notes"])
            recipient = rng.choice([None, None, "assistant", "functions.f", "<|call|>"])
            content_type = rng.choice([None, None, "<|constrain|>json", "<|constrain|>yaml"])
            messages.append(Message(role, rng.choice(texts), name, channel, recipient, content_type))  # type: ignore[arg-type]
        vocabulary = rng.choice([tokenizer, small_tokenizer])
        headers: Any = rng.choice(["peer", "native"])
        ids = [i for m in messages for i in render_message(m, vocabulary, headers=headers)]
        parser, _ = checked(ids, vocabulary, None)
        assert list(parser.messages) == messages, seed
        assert not parser.repairs, seed


def test_strict_is_the_official_parser(peer: Any, tokenizer: Tokenizer) -> None:
    """The same messages or the same error on streams that are well-formed, or nearly so. (Wherever the
    tolerant parser repairs nothing, it reads the same, but for a bare word in a recipient's place.)"""
    words = [
        "assistant",
        " assistant",
        "user",
        "analysis",
        "commentary",
        " to=functions.f",
        " to=",
        " json",
        "final",
    ]
    words += [
        "functions.g",
        " ",
        "\n",
        "\u2003",
        "<",
        "<|channel|>",
        ' a "q"',
        "\\",
        "é",
        "\x1f",
        "<|constrain|>",
    ]
    specials = [
        "<|channel|>",
        "<|constrain|>",
        "<|start|>",
        "<|end|>",
        "<|reserved_200018|>",
        "<|endoftext|>",
    ]
    agreed = 0
    for seed in range(2500):
        rng = random.Random(seed)
        ids: list[int] = []
        role: Any = rng.choice([None, None, "assistant"])
        for number in range(rng.randrange(1, 4)):
            if rng.random() < 0.95 and not (role and number == 0):
                ids += ids_of("<|start|>" + rng.choice(["assistant", "user", "functions.f", "tool", ""]), tokenizer)
            for _ in range(rng.randrange(4)):
                header = rng.random() < 0.3
                ids += ids_of(rng.choice(specials[: 2 if rng.random() < 0.9 else 6]), tokenizer) if header else []
                ids += tokenizer.encode(rng.choice(words))
            ids += ids_of("<|message|>", tokenizer) if rng.random() < 0.9 else []
            for _ in range(rng.randrange(3)):
                ids += (
                    ids_of(rng.choice(specials), tokenizer)
                    if rng.random() < 0.1
                    else tokenizer.encode(rng.choice(words))
                )
            ids += ids_of(rng.choice(["<|end|>", "<|call|>", "<|return|>"]), tokenizer) if rng.random() < 0.9 else []
        expected = peer.parse(ids, role)
        try:
            found: Any = list(parse_completion(ids, tokenizer, role, strict=True))
        except ParseError as error:
            found = str(error)
        assert found == expected, (seed, tokenizer.decode(ids))
        agreed += isinstance(found, list)
    assert agreed > 300  # not only errors were compared


def test_tolerant_equals_official_on_well_formed_streams(peer: Any, tokenizer: Tokenizer, checked: Any) -> None:
    """Real shapes of turns, in both orders of recipient and channel, from a prompt's end or from START."""
    headers = [
        "assistant<|channel|>analysis",
        "assistant<|channel|>final",
        "assistant<|channel|>final to=user <|constrain|>json",
        "assistant<|channel|>commentary",
        "assistant<|channel|>commentary to=functions.f <|constrain|>json",
        "assistant to=functions.f<|channel|>commentary <|constrain|>json",
        "assistant to=python<|channel|>analysis code",
        "assistant<|channel|>analysis to=python code",
        "assistant<|channel|>commentary to=functions.f",
        "assistant",
        "functions.f to=assistant<|channel|>commentary",
        "python to=assistant<|channel|>analysis",
        "user",
        "system",
        "developer",
    ]
    bodies = ["", "hello", "  two\n", "é 👍 日本", '{"a": 1}', "to=f <b>"]
    for seed in range(800):
        rng = random.Random(seed)
        text = ""
        for _ in range(rng.randrange(1, 5)):
            stop = rng.choice(["<|end|>", "<|call|>", "<|return|>"])
            text += f"<|start|>{rng.choice(headers)}<|message|>{rng.choice(bodies)}{stop}"
        role: Any = None
        if text.startswith("<|start|>assistant") and rng.random() < 0.5:
            text, role = text.removeprefix("<|start|>assistant"), "assistant"
        ids = ids_of(text[: -len("<|end|>")] if rng.random() < 0.1 and text.endswith("<|end|>") else text, tokenizer)
        parser, _ = checked(ids, tokenizer, role)
        assert list(parser.messages) == peer.parse(ids, role), text
        assert not parser.repairs, text


def test_time_grows_linearly(small_tokenizer: Tokenizer) -> None:
    """Bodies, endless headers and endless loose text cost the same per token at any length."""

    def seconds(unit: str, times: int) -> float:
        ids = ids_of(unit, small_tokenizer) * times
        best = 9.0
        for _ in range(3):
            began = time.perf_counter()
            parse_completion(ids, small_tokenizer)
            best = min(best, time.perf_counter() - began)
        return best

    for unit in (
        "<|message|>the user ",
        "the user ",
        "<|channel|>",
        "<|constrain|>x ",
        "<|start|>",
        "x<|end|>",
    ):
        assert seconds(unit, 8000) < 3 * 8 * seconds(unit, 1000) + 0.01, unit
