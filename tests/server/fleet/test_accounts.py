"""Limits, sums and deletion over two servers of one database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import two_servers

pytestmark = pytest.mark.slow
KEYS = """\
ann ann-secret tokens-per-day=60
bob bob-secret
boss boss-secret admin=yes
carl carl-secret concurrent=1
"""


def asked(url: str, name: str, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {"x-api-key": f"{name}-secret"}
    return httpx.request(method, url + path, headers=headers, timeout=120, **more)


def test_a_budget_and_deletion_hold_at_both(new_database: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    shared = ("--api-key-file", str(keys), "--tools", "python")
    sent = {"file": ("notes.txt", b"notes of ann", "text/plain")}
    body = {"input": "Hello", "max_output_tokens": 4}
    with two_servers(new_database, tmp_path, shared, shared) as pair:
        kept = []
        for url in pair.urls:
            purpose = {"purpose": "user_data"}
            made = asked(url, "ann", "POST", "/v1/files", files=sent, data=purpose)
            kept.append(f"/v1/files/{made.json()['id']}")
            made = asked(url, "ann", "POST", "/v1/containers", json={"name": "c"})
            kept.append(f"/v1/containers/{made.json()['id']}")
        first = asked(pair.urls[0], "ann", "POST", "/v1/responses", json=body)
        assert first.status_code == 200, first.text
        kept.append(f"/v1/responses/{first.json()['id']}")
        told = asked(pair.urls[0], "boss", "GET", "/v1/usage")  # writes what was used
        assert [each["key"] for each in told.json()["data"]] == ["ann"]
        for url in reversed(pair.urls):
            refused = asked(url, "ann", "POST", "/v1/responses", json=body)
            assert refused.status_code == 429, refused.text
            assert refused.json()["error"]["code"] == "insufficient_quota"
            assert asked(url, "bob", "POST", "/v1/responses", json=body).status_code == 200
            for path in kept:
                assert asked(url, "ann", "GET", path).status_code == 200, path
        gone = asked(pair.urls[1], "boss", "DELETE", "/v1/users/ann")
        assert gone.status_code == 200, gone.text
        counts = gone.json()["counts"]
        assert (counts["files"], counts["containers"], counts["responses"]) == (2, 2, 1)
        for url in pair.urls:
            for path in kept:
                assert asked(url, "ann", "GET", path).status_code == 404, path


def test_what_one_passes_on_is_counted_once(new_database: str, tmp_path: Path) -> None:
    """One at a time is enough for a key whose container is at the other server."""
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    shared = ("--api-key-file", str(keys), "--tools", "python")
    with two_servers(new_database, tmp_path, shared, shared) as pair:
        made = asked(pair.two.url, "carl", "POST", "/v1/containers", json={"name": "c"})
        code = {"type": "code_interpreter", "container": made.json()["id"]}
        body = {"input": "Hello", "max_output_tokens": 4, "tools": [code]}
        told = 0
        for url in pair.urls * 2:
            answer = asked(url, "carl", "POST", "/v1/responses", json=body)
            assert answer.status_code == 200, answer.text
            told += answer.json()["usage"]["total_tokens"]
        for url in pair.urls:
            rows = asked(url, "boss", "GET", "/v1/usage?key=carl").json()["data"]
        assert sum(each["prompt_tokens"] + each["output_tokens"] for each in rows) == told
