"""X-Session-ID: a client's own name comes back, and without one every API makes a name that stays
the same over a conversation.
"""

from __future__ import annotations

from typing import Any

import pytest

from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey

SAYS = "<|channel|>final<|message|>Hi there<|return|>"
KEYS = tuple(ApiKey(name, secret_digest(f"secret-{name}")) for name in ("a", "b"))
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def named(client: Any, path: str, body: dict[str, Any], key: str = "a", **more: str) -> str:
    headers = {"authorization": f"Bearer secret-{key}", **more}
    async with client.stream("POST", path, json={"model": "m", **body}, headers=headers) as answer:
        await answer.aread()
        assert answer.status_code == 200, answer.text
        return str(answer.headers["x-session-id"])


def turns(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {},
    "/v1/messages": {"max_tokens": 9},
    "/api/chat": {"stream": False},
}


@pytest.mark.parametrize("path", ASKED)
async def test_the_name_stays_over_a_conversation(client_for: Any, path: str) -> None:
    """Also while it is shorter than what names it, streamed or not; another one has another."""
    async with client_for(SAYS, settings=Settings(keys=KEYS)) as client:
        more = ASKED[path]
        first = await named(client, path, {"messages": turns("Hello"), **more})
        for stream in (False, True):
            later = {"messages": turns("Hello", "Hi there", "And now?"), **more, "stream": stream}
            assert await named(client, path, later) == first
        assert await named(client, path, {"messages": turns("Good day"), **more}) != first
        assert await named(client, path, {"messages": turns("Hello"), **more}, "b") != first
        assert "Hello" not in first and first.startswith("prompt-")


async def test_a_clients_own_name_comes_back(client_for: Any) -> None:
    async with client_for(SAYS, settings=Settings(keys=KEYS)) as client:
        body = {"messages": turns("Hello")}
        name = await named(client, "/v1/chat/completions", body, **{"x-session-id": "my-chat:7"})
        assert name == "my-chat:7"
        odd = await named(client, "/v1/chat/completions", body, **{"x-session-id": "two words"})
        assert odd.startswith("prompt-"), "what does not fit a header's name is not repeated"
        listed = await client.get(
            "/v1/models", headers={"authorization": "Bearer secret-a", "x-session-id": "s"}
        )
        assert listed.headers["x-session-id"] == "s"


async def test_what_a_request_says_of_its_conversation(client_for: Any) -> None:
    """The conversation, then the first response of the chain, then the key, then the user."""
    async with client_for(SAYS, settings=Settings(keys=KEYS)) as client:
        headers = {"authorization": "Bearer secret-a"}
        made = (await client.post("/v1/conversations", json={}, headers=headers)).json()["id"]
        body = {"input": "Hello", "prompt_cache_key": "team", "user": "me@example.org"}
        path = "/v1/responses"
        assert await named(client, path, body | {"conversation": made}) == made
        answer = await client.post(path, json=body, headers=headers)
        first = answer.json()["id"]
        assert answer.headers["x-session-id"] == first
        chain = {"input": "Again", "previous_response_id": first}
        second = await client.post(path, json=chain, headers=headers)
        assert second.headers["x-session-id"] == first
        chain["previous_response_id"] = second.json()["id"]
        assert await named(client, path, chain) == first
        by_key = await named(client, path, body | {"store": False})
        other = {"messages": turns("Something else"), "prompt_cache_key": "team"}
        assert by_key == await named(client, "/v1/chat/completions", other)
        assert by_key.startswith("key-") and "team" not in by_key
        by_user = await named(client, "/v1/chat/completions", {"messages": turns("x"), "user": "u"})
        said = {"messages": turns("y"), "max_tokens": 9, "metadata": {"user_id": "u"}}
        assert by_user == await named(client, "/v1/messages", said)
        assert by_user.startswith("user-")
        assert (await named(client, path, {"input": "x", "store": False})).startswith("prompt-")
        prompt = {"prompt": "Once upon a time"}
        assert (await named(client, "/v1/completions", prompt)).startswith("prompt-")
