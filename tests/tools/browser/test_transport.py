"""Only public addresses are connected to, whatever a URL or a name server says."""

from __future__ import annotations

import _socket
import socket
from ipaddress import ip_address

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.errors import ToolError
from ossia.tools.browser.addresses import is_public, parsed
from ossia.tools.browser.transport import Guard, guarded_transport

httpx2 = pytest.importorskip("httpx2", reason="needs httpx2")
pytestmark = pytest.mark.anyio

CLOSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd12::1",
    "ff02::1",
    "2001:db8::1",
    "100::1",
    "3fff::1",
    "5f00::1",
    "2001:10::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "::8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2002:7f00:1::",
    "2002:c0a8:101::1",
    "2001:0:7f00:1::1",
    "2001:0:808:808:0:0:80ff:fffe",
    "fe80::1%eth0",
    "2001:db8::1%1",
]
OPEN = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "2606:4700::1111",
    "2a00:1450:4001::5",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("text", CLOSED)
def test_closed_addresses(text: str) -> None:
    assert not is_public(parsed(text))


@pytest.mark.parametrize("text", OPEN)
def test_open_addresses(text: str) -> None:
    assert is_public(parsed(text))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=examples(1000), deadline=None)
def test_an_address_inside_another_is_as_public_as_itself(number: int) -> None:
    plain = ip_address(number)
    for wrapped in (
        (0xFFFF << 32) | number,
        (0x64FF9B << 96) | number,
        (0x2002 << 112) | number << 80,
    ):
        assert is_public(ip_address(wrapped.to_bytes(16, "big"))) is is_public(plain)
    if not is_public(plain):
        teredo = (0x20010000 << 96) | (0x08080808 << 64) | (number ^ 0xFFFFFFFF)
        assert not is_public(ip_address(teredo.to_bytes(16, "big")))


# resolved by this machine: no name server is asked for any of them
HERE = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://127.0.0.1./",
    "http://0/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[0:0:0:0:0:ffff:7f00:1]/",
    "http://[::ffff:7f00:1]:443/",
    "http://[64:ff9b::7f00:1]/",
    "http://[fe80::1%25lo]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://10.0.0.1:80/",
    "http://00127.0.0.1/",
    "http://127.000.000.001/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://[::]/",
    "https://0.0.0.0/",
]
REFUSED = [
    *("file:///etc/passwd", "ftp://a.org/", "gopher://a.org/", "javascript:x", "data:text/html,x"),
    *(
        "http://user@8.8.8.8/",
        "http://user:pw@8.8.8.8/",
        "http://8.8.8.8:22/",
        "http:///x",
        "http://",
    ),
    *("https://8.8.8.8:8443/", "http://8.8.8.8:0/", "//8.8.8.8/", "unix:/run/x", "http://%31/"),
]


async def literal(host: str, port: int) -> list[str]:
    """What the system makes of an address, however it is written. No name server is asked."""
    if host.lower().rstrip(".") == "localhost":
        return ["127.0.0.1"]
    found = _socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    return [str(each[4][0]) for each in found]


async def asked(url: str, guard: Guard | None = None) -> str:
    """Why a URL is not asked."""
    transport = guarded_transport(guard or Guard(resolve=literal))
    try:
        await transport.handle_async_request(httpx2.Request("GET", url))
    except (ToolError, httpx2.InvalidURL) as error:
        return str(error)
    raise AssertionError(f"{url} was asked")


@pytest.mark.parametrize("url", HERE)
async def test_this_machine_is_not_asked_by_any_of_its_names(url: str) -> None:
    why = await asked(url)
    assert "not on the public internet" in why or "resolved" in why or "Invalid" in why, why


@pytest.mark.parametrize("url", REFUSED)
async def test_other_schemes_ports_and_users_are_refused(url: str) -> None:
    assert (
        "opened" in (why := await asked(url)) or "host" in why or "Invalid" in why or "valid" in why
    )


async def test_one_closed_address_of_a_name_closes_it() -> None:
    for answers in (["8.8.8.8", "10.0.0.1"], ["2606:4700::1", "::1"], ["8.8.8.8", "fe80::1%2"]):

        async def resolve(host: str, port: int, answers: list[str] = answers) -> list[str]:
            return answers

        assert "not on the public" in await asked("http://mixed.org/", Guard(resolve=resolve))


async def test_names_without_answers_or_with_odd_ones() -> None:
    for answers in ([], ["x"], ["1.2.3.4.5"], [""]):

        async def resolve(host: str, port: int, answers: list[str] = answers) -> list[str]:
            return answers

        assert "cannot be resolved" in await asked("http://odd.org/", Guard(resolve=resolve))


async def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that answers something else the second time is not asked a second time."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    connected = []

    async def resolve(host: str, port: int) -> list[str]:
        return next(answers)

    async def handle(self: object, request: httpx2.Request) -> httpx2.Response:
        connected.append((str(request.url), request.headers["host"], dict(request.extensions)))
        return httpx2.Response(200)

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle)
    request = httpx2.Request("GET", "https://rebinding.org/x?y=1")
    await guarded_transport(Guard(resolve=resolve)).handle_async_request(request)
    (where, host, extensions) = connected[0]
    assert where == "https://93.184.216.34/x?y=1" and host == "rebinding.org"
    assert extensions["sni_hostname"] == "rebinding.org"
    assert str(request.url) == "https://rebinding.org/x?y=1"
    assert next(answers) == ["127.0.0.1"]


async def test_other_addresses_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    async def resolve(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "2606:4700::1111", "8.8.8.8"]

    async def handle(self: object, request: httpx2.Request) -> httpx2.Response:
        tried.append(request.url.host)
        raise httpx2.ConnectError("no")

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle)
    with pytest.raises(httpx2.ConnectError):
        transport = guarded_transport(Guard(resolve=resolve))
        await transport.handle_async_request(httpx2.Request("GET", "http://a.org/"))
    assert tried == ["8.8.8.8", "2606:4700::1111"]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")

    async def resolve(host: str, port: int) -> list[str]:
        return ["10.0.0.1"]

    assert "not on the public" in await asked("http://a.org/", Guard(resolve=resolve))
