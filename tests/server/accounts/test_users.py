"""Users whom a proxy names: believed of the proxies that are named, and of nobody else."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.access import secret_digest
from ossia.server.accounts.users import NotingPeer, ProxyUsers
from ossia.server.run import _behind
from ossia.server.settings import ApiKey, Limits
from ossia.server.wire.errors import ApiError

HEADER = "X-Forwarded-User"
PROXIES = ("10.0.0.7", "10.1.0.0/16", "fd00::/8")
ADMIN = ApiKey("boss", secret_digest("boss-secret"), Limits(admin=True))
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("10.0.0.7", "user:ann"), ("10.1.200.3", "user:ann"), ("::ffff:10.0.0.7", "user:ann"),
        ("fd00::1%eth0", "user:ann"), ("10.0.0.8", None), ("192.0.2.1", None), ("", None),
        ("unix", None), ("fe80::1", None),
    ],
)  # fmt: skip
def test_whose_word_is_taken(peer: str, name: str | None) -> None:
    assert ProxyUsers(HEADER, PROXIES).name({"x-forwarded-user": " ann "}, peer) == name


@pytest.mark.parametrize("name", ["a b", "\x01", "a" * 201, "a\u00e9"])
def test_names_that_could_not_be_written_down(name: str) -> None:
    users = ProxyUsers(HEADER, PROXIES)
    with pytest.raises(ApiError, match="visible characters") as error:
        users.name({"x-forwarded-user": name}, "10.0.0.7")
    assert error.value.status == 401
    assert users.name({"x-forwarded-user": name}, "10.0.0.8") is None


def client_from(app: Any, address: str, **headers: str) -> httpx.AsyncClient:
    """Through what a server puts before the application."""
    transport = httpx.ASGITransport(app, client=(address, 5000), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers)


@pytest.mark.parametrize("keys", [(), (ADMIN,)])
async def test_only_the_proxy_names_users(tokenizer: Any, script: Any, keys: Any) -> None:
    """From elsewhere the header is as if it were not there, whatever X-Forwarded-For says."""
    settings = Settings(
        keys=keys, trusted_proxies=("10.0.0.7",), user_header=HEADER, users=Limits(concurrent=3)
    )
    says = script("<|channel|>final<|message|>Hi<|return|>")
    app = create_app(ScriptedEngine([says]), tokenizer, settings)
    named = {HEADER: "ann", "X-Forwarded-For": "203.0.113.9"}
    async with app.router.lifespan_context(app):
        front = _behind(app, settings.trusted_proxies)
        assert isinstance(front, NotingPeer)
        async with client_from(front, "10.0.0.7", **named) as proxy:
            made = await proxy.post("/v1/responses", json={"input": "Hi"})
            assert made.status_code == 200
            assert made.headers["x-ratelimit-limit-requests"] == "3"
            place = f"/v1/responses/{made.json()['id']}"
            assert (await proxy.get(place)).status_code == 200
            other = await proxy.get(place, headers={HEADER: "bob"})
            assert other.status_code == 404, "users see nothing of each other"
            nobody = await proxy.get("/v1/models", headers={HEADER: ""})
            assert nobody.status_code == 401
        forged = {**named, "X-Forwarded-For": "10.0.0.7"}
        for address in ("10.0.0.8", "203.0.113.9"):
            async with client_from(front, address, **forged) as stranger:
                assert (await stranger.get(place)).status_code == 401
                assert (await stranger.get("/v1/models")).status_code == 401
        assert set(app.state.access.totals()) == {*(key.name for key in keys), "users"}


async def test_a_key_of_a_users_name_is_the_same_caller(tokenizer: Any, script: Any) -> None:
    """Whom the header names is no key by another name: an administrator needs the key."""
    mine = ApiKey("user:ann", secret_digest("mine"), Limits(concurrent=2))
    settings = Settings(keys=(ADMIN, mine), trusted_proxies=("10.0.0.7",), user_header=HEADER)
    says = script("<|channel|>final<|message|>Hi<|return|>")
    app = create_app(ScriptedEngine([says]), tokenizer, settings)
    async with app.router.lifespan_context(app), client_from(app, "10.0.0.7") as client:
        made = await client.post("/v1/responses", json={"input": "x"}, headers={HEADER: "ann"})
        place = f"/v1/responses/{made.json()['id']}"
        by_key = await client.get(place, headers={"x-api-key": "mine"})
        assert by_key.status_code == 200
        boss = await client.get("/v1/usage", headers={HEADER: "boss"})
        assert boss.status_code == 403
        assert (
            await client.get("/v1/usage", headers={"x-api-key": "boss-secret"})
        ).status_code == 200
