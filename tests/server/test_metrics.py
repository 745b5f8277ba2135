"""/metrics: vLLM's names, and sums that agree with what clients were told."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ossia.tools.containers import Containers

SAYS = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi "
    "there<|return|>"
)
CHAT = {"model": "nano", "messages": [{"role": "user", "content": "Hi"}]}
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def values(client: Any) -> dict[str, float]:
    """Of every sample: its name, and its labels apart from the model's name."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "model_name"}
            found[sample.name + (str(labels) if labels else "")] = sample.value
    return found


def ended(reason: str) -> str:
    return f"ossia:request_success_total{{'finished_reason': '{reason}'}}"


async def test_names_of_vllm(client_for: Any) -> None:
    async with client_for(SAYS) as client:
        found = await values(client)
    counters = [
        "prompt_tokens",
        "generation_tokens",
        "prefix_cache_queries",
        "prefix_cache_hits",
        "num_preemptions",
    ]
    gauges = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]
    histograms = [
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "request_time_per_output_token_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
    ]
    for name in (
        *(f"{n}_total" for n in counters),
        *gauges,
        *(f"{n}_{w}" for n in histograms for w in ("sum", "count")),
    ):
        assert found[f"ossia:{name}"] == 0, name
    assert found["process_resident_memory_bytes"] > 0


async def test_the_documents_name_all_of_them(client_for: Any, tmp_path: Path) -> None:
    """And only those that there are."""
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    section = text.partition("### Metrics")[2].partition("\n## ")[0]
    async with client_for(SAYS, containers=Containers(tmp_path)) as client:
        told = (await client.get("/metrics")).text
    ours = (each for each in text_string_to_metric_families(told) if "ossia:" in each.name)
    families = [each for each in ours if not each.name.endswith("_created")]
    found = {each.name + ("_total" if each.type == "counter" else "") for each in families}
    assert set(re.findall(r"`(ossia:\w+)`", section)) == found


async def test_one_answer(client_for: Any) -> None:
    async with client_for(SAYS) as client:
        usage = (await client.post("/v1/chat/completions", json=CHAT)).json()["usage"]
        found = await values(client)
    assert found["ossia:prompt_tokens_total"] == usage["prompt_tokens"]
    assert found["ossia:generation_tokens_total"] == usage["completion_tokens"]
    assert (
        found["ossia:reasoning_tokens_total"]
        == usage["completion_tokens_details"]["reasoning_tokens"]
        > 0
    )
    assert found[ended("stop")] == 1
    assert found["ossia:time_to_first_token_seconds_count"] == 1
    assert found["ossia:inter_token_latency_seconds_count"] == usage["completion_tokens"] - 1
    route = {"method": "POST", "route": "/v1/chat/completions", "status": "200"}
    assert found[f"ossia:http_requests_total{route}"] == 1


async def test_how_answers_end(client_for: Any) -> None:
    call = "<|channel|>commentary to=functions.f<|message|>{}<|call|>"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    async with client_for(call, SAYS, []) as client:
        await client.post("/v1/chat/completions", json=CHAT | {"tools": [tool]})
        await client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 2})
        refused = await client.post("/v1/chat/completions", json=CHAT)
        assert refused.status_code >= 400
        found = await values(client)
    assert (found[ended("calls")], found[ended("length")], found[ended("error")]) == (1, 1, 1)


async def test_routes_are_few(client_for: Any) -> None:
    async with client_for(SAYS) as client:
        for n in range(3):
            await client.get(f"/v1/responses/resp_{n}")
            await client.get(f"/nowhere/{n}")
            await client.request(f"ODD{n}", "/health")
        found = await values(client)
    asked = {
        name: value for name, value in found.items() if name.startswith("ossia:http_requests_total")
    }
    for method, route, status in (
        ("GET", "/v1/responses/{response_id}", 404), ("GET", "none", 404),
        ("OTHER", "/health", 405),
    ):  # fmt: skip
        labels = {"method": method, "route": route, "status": str(status)}
        assert asked[f"ossia:http_requests_total{labels}"] == 3, asked


async def test_repairs(client_for: Any) -> None:
    async with client_for(
        "<|channel|>final<|message|>Hi<|channel|>final<|message|>again<|return|>"
    ) as client:
        await client.post("/v1/chat/completions", json=CHAT)
        found = await values(client)
    repairs = {
        name: value
        for name, value in found.items()
        if name.startswith("ossia:harmony_repairs_total")
    }
    assert sum(repairs.values()) >= 1 and "{'kind': 'missing-end'}" in str(repairs)


async def test_sums_under_load(client_for: Any) -> None:
    """Some clients go away in the midst of it; what the others were told, and what those cost, is
    all there is.
    """
    draw = random.Random(1)
    async with client_for(SAYS) as client:
        client.engine.delay = 0.001

        async def ask(goes_away: bool) -> int:
            task = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
            if goes_away:
                await asyncio.sleep(draw.uniform(0, 0.03))
                task.cancel()
            answers = await asyncio.gather(task, return_exceptions=True)
            if isinstance(answers[0], BaseException):
                return 0
            return int(answers[0].json()["usage"]["completion_tokens"])

        told = await asyncio.gather(*(ask(n % 3 == 0) for n in range(60)))
        access = client.app.state.access
        async with asyncio.timeout(10):  # those that went away end a moment later
            while access.running:
                await asyncio.sleep(0.01)
        found = await values(client)
    done, gone = found[ended("stop")], found.get(ended("abort"), 0)
    each = max(told)
    assert done == sum(tokens > 0 for tokens in told) >= 40
    assert done * each <= found["ossia:generation_tokens_total"] <= (done + gone) * each
    assert found["ossia:request_generation_tokens_sum"] == found["ossia:generation_tokens_total"]
    assert found["ossia:request_prompt_tokens_sum"] == found["ossia:prompt_tokens_total"]
    assert found["ossia:e2e_request_latency_seconds_count"] == done + gone
    assert found["ossia:num_requests_running"] == 0 and access.running == 0


async def test_counters_never_fall(client_for: Any) -> None:
    """What cannot be read of a working engine is not 0."""
    from ossia.engine.request import EngineStats

    async with client_for(SAYS) as client:
        stats = [
            EngineStats(prompt_tokens=50, reused_tokens=20, preemptions=1, running=2),
            EngineStats(),
        ]
        client.app.state.service.worker.engine.stats = lambda: (
            stats.pop(0) if len(stats) > 1 else stats[0]
        )
        first, second = await values(client), await values(client)
    assert first["ossia:num_requests_running"] == 2 and second["ossia:num_requests_running"] == 0
    for name, value in (
        ("prefix_cache_queries", 50),
        ("prefix_cache_hits", 20),
        ("num_preemptions", 1),
    ):
        assert first[f"ossia:{name}_total"] == second[f"ossia:{name}_total"] == value


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)
LEGACY = "text/plain;version=1.0.0;escaping=underscores"


@pytest.mark.parametrize("accept", ["*/*", PROMETHEUS_2, PROMETHEUS_3, LEGACY])
async def test_names_are_the_same_for_everybody_who_asks(client_for: Any, accept: str) -> None:
    async with client_for(SAYS) as client:
        answer = await client.get("/metrics", headers={"Accept": accept})
    assert "\nossia:num_requests_running{" in answer.text
    assert "ossia_" not in answer.text
