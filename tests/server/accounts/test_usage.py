"""What everybody has used: GET /v1/usage, the metrics, and budgets, by every API."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey, Limits

SAYS = "<|channel|>final<|message|>Hi there<|return|>"
pytestmark = pytest.mark.anyio
MESSAGES = [{"role": "user", "content": "Hello"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 50},
    "/v1/completions": {"prompt": "Hello"},
    "/api/chat": {"messages": MESSAGES, "stream": False},
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def keys(**limits: Any) -> Settings:
    made = [ApiKey(name, secret_digest(name), Limits(**limits)) for name in ("ann", "bob")]
    admin = ApiKey("boss", secret_digest("boss"), Limits(admin=True))
    return Settings(model_name="nano", keys=(*made, admin))


def spent(path: str, body: dict[str, Any]) -> tuple[int, int]:
    """Tokens of the prompt and of the answer, as the API tells them."""
    if path.startswith("/api"):
        return body["prompt_eval_count"], body["eval_count"]
    usage = body["usage"]
    names = ("input_tokens", "output_tokens")
    if "prompt_tokens" in usage:
        names = ("prompt_tokens", "completion_tokens")
    cached = usage.get("cache_read_input_tokens") or 0  # Anthropic's prompts are without it
    return usage[names[0]] + cached, usage[names[1]]


async def test_who_used_how_much(client_for: Any) -> None:
    """What clients were told is what the operator is told, by key, and what metrics count."""
    async with client_for(SAYS, settings=keys()) as client:
        told = {"ann": [0, 0], "bob": [0, 0]}
        for n, (path, body) in enumerate(ASKED.items()):
            for name in ("ann", "bob")[: 1 + n % 2]:
                answer = await client.post(path, json=body, headers={"x-api-key": name})
                assert answer.status_code == 200, answer.text
                for place, tokens in enumerate(spent(path, answer.json())):
                    told[name][place] += tokens
        usage = await client.get("/v1/usage", headers={"x-api-key": "boss"})
        today = f"{datetime.now(UTC).date()}"
        rows = usage.json()["data"]
        assert {each["day"] for each in rows} <= {today, usage.json()["end"]}
        got = {each["key"]: [each["prompt_tokens"], each["output_tokens"]] for each in rows}
        assert got == told
        assert {each["model"] for each in rows} == {"nano"}
        metrics = (await client.get("/metrics", headers={"x-api-key": "boss"})).text
        for name, (prompt, output) in told.items():
            for kind, tokens in (("prompt", prompt), ("output", output)):
                labels = f'key="{name}",kind="{kind}",model_name="nano"'
                assert f"ossia:tokens_total{{{labels}}} {float(tokens)}" in metrics
        assert "boss-secret" not in metrics and secret_digest("ann") not in metrics
        one = await client.get("/v1/usage?key=bob", headers={"x-api-key": "boss"})
        assert [each["key"] for each in one.json()["data"]] == ["bob"]


async def test_metrics_by_key_are_for_who_may_see_them(client_for: Any) -> None:
    """What is counted of others' keys says what they do, and when."""
    watcher = ApiKey("prometheus", secret_digest("prometheus"), Limits(metrics=True))
    settings = keys()
    async with client_for(
        SAYS, settings=replace(settings, keys=(*settings.keys, watcher))
    ) as client:
        for name in ("ann", "bob"):
            body = ASKED["/v1/responses"]
            await client.post("/v1/responses", json=body, headers={"x-api-key": name})
        seen = {}
        for name in ("ann", "bob", "boss", "prometheus"):
            told = (await client.get("/metrics", headers={"x-api-key": name})).text
            seen[name] = set(re.findall('key="([^"]*)"', told))
            assert "ossia:num_requests_running" in told and "ossia:http_requests_total" in told
        all_of_them = {"ann", "bob", "boss", "prometheus"}
        assert seen["boss"] == seen["prometheus"] == all_of_them
        assert (seen["ann"], seen["bob"]) == ({"ann"}, {"bob"})


async def test_only_an_administrator_is_told(client_for: Any) -> None:
    async with client_for(SAYS, settings=keys()) as client:
        for method, path in (("GET", "/v1/usage"), ("DELETE", "/v1/users/ann")):
            for name, status in (("ann", 403), ("nobody", 401)):
                answer = await client.request(method, path, headers={"x-api-key": name})
                assert answer.status_code == status
        assert (await client.get("/v1/usage", headers={"x-api-key": "ann"})).json()["error"][
            "code"
        ] == "admin_required"
        for query in ("start=yesterday", "start=2026-02-01&end=2026-01-01"):
            answer = await client.get(f"/v1/usage?{query}", headers={"x-api-key": "boss"})
            assert answer.status_code == 400 and answer.json()["error"]["param"] == "start"
        answer = await client.get("/v1/usage?end=0001-01-05", headers={"x-api-key": "boss"})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "end"
    async with client_for(SAYS) as client:  # without keys nobody is one
        assert (await client.get("/v1/usage")).status_code == 403
        assert (await client.delete("/v1/users/x")).status_code == 403


async def test_a_budget_is_refused_in_the_words_of_every_api(client_for: Any) -> None:
    async with client_for(SAYS, settings=keys(tokens_per_day=1)) as client:
        ann = {"x-api-key": "ann"}
        first = await client.post("/v1/responses", json=ASKED["/v1/responses"], headers=ann)
        assert first.status_code == 200
        for path, body in ASKED.items():
            answer = await client.post(path, json=body, headers=ann)
            assert answer.status_code == 429 and answer.headers["x-should-retry"] == "false"
            left = 86400 - datetime.now(UTC).timestamp() % 86400
            assert abs(int(answer.headers["retry-after"]) - left) < 60
            error = answer.json()["error"]
            if path.startswith("/api"):
                assert "quota of 1 tokens per day" in error
            elif path == "/v1/messages":
                assert error["type"] == "rate_limit_error"
            else:
                assert (error["type"], error["code"]) == ("insufficient_quota",) * 2
        place = f"/v1/responses/{first.json()['id']}"
        assert (await client.get(place, headers=ann)).status_code == 200, "reading costs nothing"
