"""Token equality with the official package, on generated conversations and on its published vectors."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from itertools import product
from typing import Any

import openai_harmony
import pytest

from ossia.harmony import (
    Conversation,
    DeveloperContent,
    FunctionTool,
    Message,
    Role,
    SystemContent,
    ToolNamespace,
    kept_messages,
    render_message,
)

MODES = ("completion", "conversation", "training")


@pytest.mark.parametrize("part", range(4))
def test_generated_conversations(part: int, peer: Any, ours: Any, generator: Any) -> None:
    """600 conversations each: compat always equal, the default wherever both rules keep the same messages."""
    agreed: Counter[bool] = Counter()
    for seed in range(600 * part, 600 * (part + 1)):
        conversation = generator(random.Random(seed)).conversation(wild=seed % 3 == 0)
        for mode in MODES:
            expected = peer.conversation(conversation, mode)
            compat = ours.conversation(conversation, mode, drop_analysis="compat")
            assert compat == expected, (seed, mode)
            teaching = mode == "training"
            kept = kept_messages(conversation.messages, teaching=teaching)
            same = kept == kept_messages(conversation.messages, "compat")
            agreed[same] += 1
            if same:
                assert ours.conversation(conversation, mode) == expected, (seed, mode)
    assert agreed[True] > 4 * agreed[False]  # the rules differ seldom


def test_keeping_everything(peer: Any, ours: Any, generator: Any) -> None:
    for seed in range(5000, 5200):
        conversation = generator(random.Random(seed)).conversation(wild=seed % 2 == 0)
        for mode in MODES:
            expected = peer.conversation(conversation, mode, drop=False)
            assert ours.conversation(conversation, mode, drop_analysis="none") == expected, (seed, mode)


def test_every_header(peer: Any, tokenizer: Any) -> None:
    """Every combination of role, channel, recipient and content type, hostile ones included."""
    channels = (None, "", "commentary", "commentary ", "analysis", "final", "<|end|>")
    recipients = (None, "", "all", "functions.f", " a b ", "<|call|>")
    types = (
        None,
        "",
        "json",
        " json",
        "<|constrain|>json",
        " <|constrain|>json",
        "<|constrain|><|end|>",
        "<|end|>",
    )
    for role, channel, recipient, content_type in product((Role.ASSISTANT, Role.TOOL), channels, recipients, types):
        message = Message(role, "x", "n<|end|>", channel, recipient, content_type)
        assert render_message(message, tokenizer) == peer.render(message), message


def test_schemas(peer: Any, tokenizer: Any, generator: Any) -> None:
    for seed in range(2500):
        schema = generator(random.Random(seed)).schema()
        message = Message("developer", DeveloperContent(tools=(FunctionTool("f", "", schema),)))
        assert render_message(message, tokenizer) == peer.render(message), json.dumps(schema)


@pytest.mark.parametrize("tools", [False, True])
def test_function_tools_change_the_system_text(tools: bool, peer: Any, tokenizer: Any) -> None:
    message = Message("system", SystemContent())
    ids = render_message(message, tokenizer, function_tools=tools)
    assert ids == peer.render(message, function_tools=tools)


def built_in(name: str) -> ToolNamespace:
    config = getattr(openai_harmony.ToolNamespaceConfig, name)()
    return ToolNamespace.from_dict(config.model_dump())


@pytest.mark.parametrize(
    ("date", "names", "count", "digest"),
    [
        (None, (), 50, "65ae866c18a899d4"),
        ("2025-06-28", (), 61, "4a5ba2078a15c348"),
        ("2025-06-28", ("browser",), 461, "c420672dfe9c68ca"),
        ("2025-06-28", ("python",), 198, "51dfc5585fe67541"),
        ("2025-06-28", ("python", "browser"), 595, "6c602a7725524197"),
        ("2025-06-28", ("browser", "python"), 595, "6c602a7725524197"),
    ],
)
def test_system_vectors(date: str | None, names: tuple[str, ...], count: int, digest: str, tokenizer: Any) -> None:
    """Recorded token ids of whole system messages: these hold without the official package too."""
    content = SystemContent(current_date=date, namespaces=tuple(map(built_in, names)))
    ids = render_message(Message("system", content), tokenizer)
    assert (len(ids), hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]) == (count, digest)


def test_json_form_is_the_peers(peer: Any, generator: Any) -> None:
    """What its Python classes write, our classes read, and our own JSON comes back unchanged."""
    content = openai_harmony.DeveloperContent.new().with_instructions("be brief")
    content = content.with_function_tools([openai_harmony.ToolDescription.new("f", "d", {"type": "object"})])
    theirs = openai_harmony.Message.from_role_and_content(openai_harmony.Role.DEVELOPER, content)
    message = Message.from_dict(theirs.to_dict())
    assert message.content == DeveloperContent("be brief", (FunctionTool("f", "d", {"type": "object"}),))
    for seed in range(200):
        conversation = generator(random.Random(seed)).conversation(wild=True)
        assert Conversation.from_dict(json.loads(json.dumps(conversation.to_dict()))) == conversation
