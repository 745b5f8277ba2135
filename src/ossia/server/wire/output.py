"""Usage, log-probabilities, what was relaxed or left out, as each API writes it. Plain dicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ossia.engine.request import PromptToken
from ossia.harmony import Message, Role
from ossia.harmony.calls import NOT_A_CALL
from ossia.tokenizer import Tokenizer
from ossia.tools import Toolbox
from ossia.turn.events import TokenLogprob, Usage
from ossia.turn.sample import token_logprob
from ossia.turn.targets import FREE, Grammars


def extension(tools: Toolbox, grammar: Grammars | None) -> dict[str, Any]:
    """Our own field of a response, if there is anything to say: `relaxed`, the keywords of schemas
    that sampling was not held to, and `unavailable_tools`, the hosted tools which the request
    declares and nobody here carries out.
    """
    said: dict[str, Any] = {}
    notes = [note for each in (grammar or FREE).relaxed.values() for note in each]
    if notes:
        said["relaxed"] = [
            {"schema": note.schema, "keyword": note.keyword, "reason": note.reason}
            for note in notes
        ]
    if tools.unavailable:
        said["unavailable_tools"] = tools.unavailable
    return {"x-ossia": said} if said else {}


def thoughts_before_calls(tools: Toolbox, messages: Sequence[Message]) -> list[Message]:
    """What an answer says before its first call to a tool of the client's."""
    builtin = {name for name, callee in tools.by_recipient.items() if callee.kind == "builtin"}
    before: list[Message] = []
    for message in messages:
        if message.role is Role.ASSISTANT and message.recipient not in (*NOT_A_CALL, *builtin):
            break
        before.append(message)
    return before


def chat_usage(usage: Usage) -> dict[str, Any]:
    """Of Chat Completions and Completions."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": _input_details(usage),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def responses_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": _input_details(usage),
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def _input_details(usage: Usage) -> dict[str, int]:
    """What was not in the cache before is in it now."""
    return {
        "cached_tokens": usage.cached,
        "cache_write_tokens": max(usage.prompt - usage.cached, 0),
    }


def messages_usage(usage: Usage) -> dict[str, Any]:
    """Anthropic's: input found in the cache is counted apart; putting it there costs nothing."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }


def logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Of Chat Completions and Responses."""
    return [
        {**_candidate(token), "top_logprobs": [_candidate(other) for other in token.top]}
        for token in tokens
    ]


def prompt_logprobs(
    tokens: Sequence[PromptToken], tokenizer: Tokenizer
) -> list[dict[str, Any] | None]:
    """Of Chat Completions and Completions, as vLLM writes them: for each token of the prompt what
    is likeliest in its place, by id, and itself. Nothing is known of the first.
    """
    return [None, *(_place(token, tokenizer) for token in tokens)]


def _place(token: PromptToken, tokenizer: Tokenizer) -> dict[str, Any]:
    found = {token.token_id: (token.logprob, token.rank)}
    for rank, (id, logprob) in enumerate(token.top_logprobs, 1):
        found.setdefault(id, (logprob, rank))
    return {
        str(id): {
            "logprob": logprob,
            "rank": rank,
            "decoded_token": token_logprob(tokenizer, id, logprob).text,
        }
        for id, (logprob, rank) in found.items()
    }


def _candidate(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}
