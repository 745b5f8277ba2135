"""Token equality with the official package, on generated conversations and schemas and on its
published vectors.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import openai_harmony
import pytest
from amounts import seeds
from harmony_schemas import NastySchemas

from ossia.errors import HarmonyError
from ossia.harmony import (
    BUILTIN_TOOLS,
    Conversation,
    DeveloperContent,
    FunctionTool,
    Message,
    ResponseFormat,
    Role,
    SystemContent,
    ToolNamespace,
    builtin_tools,
    kept_messages,
    render_message,
)

MODES = ("completion", "conversation", "training")
PLAIN = {"conversation_has_function_tools": False}


def compare(chosen: Sequence[int], peer: Any, ours: Any, generator: Any) -> None:
    """Conversations in all entry points, with and without dropping, and each of their messages by
    itself.
    """
    for seed in chosen:
        conversation = generator(random.Random(seed)).conversation(wild=seed % 3 == 0)
        for mode, drop in product(MODES, (True, False)):
            expected = peer.conversation(conversation, mode, drop=drop)
            found = ours.conversation(conversation, mode, style="compat", drop_analysis=drop)
            assert found == expected, (seed, mode, drop)
        tools = bool(seed % 2)
        for message in conversation.messages:
            expected = peer.render(message, function_tools=tools)
            assert (
                render_message(message, ours.tokenizer, style="compat", function_tools=tools)
                == expected
            ), seed


def test_generated_conversations(peer: Any, ours: Any, generator: Any) -> None:
    compare(seeds(600), peer, ours, generator)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_20_000_conversations(part: int, peer: Any, ours: Any, generator: Any) -> None:
    compare(range(1000 * part, 1000 * (part + 1)), peer, ours, generator)


def compare_schemas(chosen: Sequence[int], peer: Any, tokenizer: Any) -> None:
    """One nasty schema and one JSON object that is none, each as the parameters of a tool."""
    for seed in chosen:
        schemas = NastySchemas(random.Random(seed))
        for schema in (schemas.schema(), schemas.json()):
            message = Message("developer", DeveloperContent(tools=(FunctionTool("f", "", schema),)))
            assert render_message(message, tokenizer, style="compat") == peer.render(message), (
                json.dumps(schema)
            )


def test_generated_schemas(peer: Any, tokenizer: Any) -> None:
    compare_schemas(seeds(1200), peer, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_20_000_schemas(part: int, peer: Any, tokenizer: Any) -> None:
    compare_schemas(range(2000 * part, 2000 * (part + 1)), peer, tokenizer)


def test_namespaces_stand_by_their_keys(peer: Any, ours: Any) -> None:
    """Written in the order of the keys, under their names; functions are those whose key says
    so.
    """
    for key, name in (
        ("functions", "x"),
        ("x", "functions"),
        ("z", "b"),
        ("", "zz"),
        ("functions", "functions"),
    ):
        tools = (FunctionTool("f"),)
        namespaces = (ToolNamespace(name, None, tools, key), ToolNamespace("c", None, tools, "m"))
        system = Message("system", SystemContent())
        conversation = Conversation(
            (system, Message("developer", DeveloperContent(namespaces=namespaces)))
        )
        expected = peer.conversation(conversation, "conversation")
        assert ours.conversation(conversation, "conversation", style="compat") == expected, (
            key,
            name,
        )


@pytest.mark.parametrize("parameters", [True, False, [1], [], "x", 1, 0, 1.5, {}, None])
def test_parameters_of_any_json(parameters: Any, peer: Any, tokenizer: Any) -> None:
    message = Message("developer", DeveloperContent(tools=(FunctionTool("f", "", parameters),)))
    assert Message.from_dict(message.to_dict()) == message
    assert render_message(message, tokenizer, style="compat") == peer.render(message)


def test_numbers(peer: Any, tokenizer: Any) -> None:
    """The official package reads numbers with more digits than 64 bits hold, or with large
    exponents, inexactly.
    """
    rng = random.Random(0)
    numbers: list[Any] = [0.1 + 0.2, 2.2250738585072014e-308, 1.7e308, 5e-324, -(2**64), 2**64 - 1]
    for _ in range(300):
        numbers += [
            rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 300),
            rng.randrange(2**64, 2**300),
        ]
    schema = {
        "type": "object",
        "properties": {str(n): {"default": number} for n, number in enumerate(numbers)},
    }
    message = Message("developer", DeveloperContent(tools=(FunctionTool("f", "", schema),)))
    assert render_message(message, tokenizer, style="compat") == peer.render(message)


def test_the_styles_differ_only_where_documented(peer: Any, ours: Any, generator: Any) -> None:
    """Conversations without tools, in which the same is dropped and no recipient or type needs a
    choice.
    """
    same = 0
    for seed in seeds(1500):
        conversation = generator(random.Random(seed)).conversation(wild=False)
        messages = conversation.messages
        if kept_messages(messages) != kept_messages(messages, "compat") or any(
            map(chooses, messages)
        ):
            continue
        for mode in ("completion", "conversation"):
            assert ours.conversation(conversation, mode) == peer.conversation(conversation, mode), (
                seed
            )
        same += 1
    assert same > len(seeds(1500)) / 8


def chooses(message: Message) -> bool:
    """Whether a message is written differently in the two styles."""
    content_type = message.content_type is not None and not message.content_type.startswith(
        "<|constrain|>"
    )
    late = message.channel == ("commentary" if message.role is Role.TOOL else "analysis")
    tools = any(
        not isinstance(part, str) and part.namespaces + getattr(part, "tools", ())
        for part in message.parts
    )
    return (
        content_type or (message.recipient is not None and late) or tools or len(message.parts) > 1
    )


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
    for role, channel, recipient, content_type in product(
        (Role.ASSISTANT, Role.TOOL), channels, recipients, types
    ):
        message = Message(role, "x", "n<|end|>", channel, recipient, content_type)
        assert render_message(message, tokenizer, style="compat") == peer.render(message), message


@pytest.mark.parametrize("tools", [False, True])
def test_function_tools_change_the_system_text(tools: bool, peer: Any, tokenizer: Any) -> None:
    message = Message("system", SystemContent())
    ids = render_message(message, tokenizer, function_tools=tools)
    assert ids == peer.render(message, function_tools=tools)


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
def test_system_vectors(
    date: str | None, names: tuple[str, ...], count: int, digest: str, tokenizer: Any
) -> None:
    """Recorded token ids of whole system messages: these hold without the official package too."""
    content = SystemContent(current_date=date, namespaces=tuple(map(builtin_tools, names)))
    ids = render_message(Message("system", content), tokenizer)
    assert ids == render_message(Message("system", content), tokenizer, style="compat")
    assert (len(ids), hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]) == (count, digest)


@pytest.mark.parametrize("name", BUILTIN_TOOLS)
def test_builtin_tools_are_the_official_ones(name: str, peer: Any, tokenizer: Any) -> None:
    official = openai_harmony.SystemContent.new()
    official = official.with_browser_tool() if name == "browser" else official.with_python_tool()
    theirs = openai_harmony.Message.from_role_and_content(openai_harmony.Role.SYSTEM, official)
    expected = peer.encoding.render(message_json=theirs.to_json(), render_options=PLAIN)
    ours = Message("system", SystemContent(namespaces=(builtin_tools(name),)))
    assert (
        render_message(ours, tokenizer)
        == render_message(ours, tokenizer, style="compat")
        == list(expected)
    )
    assert builtin_tools(name) is builtin_tools(name)


def test_unknown_builtin_tools_are_named() -> None:
    with pytest.raises(HarmonyError, match="'shell': use one of browser, python"):
        builtin_tools("shell")


def test_response_formats_are_what_callers_append_officially(peer: Any, tokenizer: Any) -> None:
    """Without tools: the official package has no field for them, its callers append them to the
    instructions.
    """
    schema = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"type": "string"}}},
    }
    formats = (
        ResponseFormat("shopping_list", schema, "what to buy\nand where"),
        ResponseFormat("any", True),
    )
    content = DeveloperContent("Be helpful.", response_formats=formats)
    text = (
        "Be helpful.\n\n# Response Formats\n\n## shopping_list\n\n// what to buy\n// and where\n"
        '{"type":"object","properties":{"items":{"type":"array","items":{"type":"string"}}}}\n\n## '
        "any\n\ntrue"
    )
    expected = peer.render(Message("developer", DeveloperContent(text)))
    assert render_message(Message("developer", content), tokenizer) == expected
    assert render_message(Message("developer", content), tokenizer, style="compat") == expected
    tools = DeveloperContent("Be helpful.", (FunctionTool("f"),), response_formats=formats)
    rendered = tokenizer.decode(render_message(Message("developer", tools), tokenizer))
    assert rendered.index("# Tools") < rendered.index("# Response Formats") and rendered.endswith(
        "true<|end|>"
    )


def test_the_official_package_passes_over_response_formats(peer: Any) -> None:
    content = DeveloperContent("Be helpful.", response_formats=(ResponseFormat("any", True),))
    plain = Message("developer", DeveloperContent("Be helpful."))
    assert peer.render(Message("developer", content)) == peer.render(plain)


def test_json_form_is_the_peers(peer: Any, generator: Any) -> None:
    """What its Python classes write, our classes read, and our own JSON comes back unchanged."""
    content = openai_harmony.DeveloperContent.new().with_instructions("be brief")
    content = content.with_function_tools(
        [openai_harmony.ToolDescription.new("f", "d", {"type": "object"})]
    )
    theirs = openai_harmony.Message.from_role_and_content(openai_harmony.Role.DEVELOPER, content)
    message = Message.from_dict(theirs.to_dict())
    assert message.content == DeveloperContent(
        "be brief", (FunctionTool("f", "d", {"type": "object"}),)
    )
    for seed in seeds(200):
        conversation = generator(random.Random(seed)).conversation(wild=True)
        assert (
            Conversation.from_dict(json.loads(json.dumps(conversation.to_dict()))) == conversation
        )
