"""The page as bytes and headers; what it does is tried in a browser, in test_page_browser.py."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

from ossia.server.page.page import Page, policy

HTML = Page.of().html
ANSWER = "<|channel|>final<|message|>Hi<|return|>"


def directives(header: str) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in header.split("; "))


def fetched(client_for, method="GET", **headers):
    async def fetch():
        async with client_for(ANSWER) as client:
            return await client.request(method, "/", headers=headers)

    return asyncio.run(fetch())


def test_it_is_served_whole(client_for):
    response = fetched(client_for)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.content == HTML.encode()


def test_who_has_it_is_told_so(client_for):
    first = fetched(client_for)
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = fetched(client_for, **{"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (fetched(client_for, **{"If-None-Match": '"other"'})).status_code == 200


def test_head_says_as_much_without_the_page(client_for):
    response = fetched(client_for, "HEAD")
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) == len(HTML.encode())


def test_nothing_but_its_own_script_and_style_may_run(client_for):
    allowed = directives((fetched(client_for)).headers["content-security-policy"])
    assert allowed["default-src"] == "'none'" and allowed["connect-src"] == "'self'"
    assert (
        allowed["require-trusted-types-for"] == "'script'"
        and allowed["frame-ancestors"] == "'none'"
    )
    for kind in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", allowed[kind])
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert allowed[kind] == f"'sha256-{digest}'"
    assert policy("a {}", "one()") != policy("a {}", "two()")


def test_nothing_is_loaded_from_elsewhere():
    """Addresses occur in it as text: the names of XML's dialects, and the kinds that a link may
    have.
    """
    for attribute in ("src", "srcset", "action", "poster", "data"):
        assert not re.search(rf"<[^>]*\s{attribute}=", HTML)
    assert all(
        address.startswith(("#", "data:"))
        for address in re.findall(r'<[^>]*\shref="([^"]*)"', HTML)
    )
    assert not re.search(
        r"@import|url\((?!location)", HTML.split("</style>")[0].split("<style>")[1]
    )
    hosts = set(re.findall(r"https?://([\w.]+)", HTML))
    assert hosts <= {"www.w3.org"}


def test_no_text_is_made_html():
    script = HTML.split("<script>")[1]
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "DOMParser",
    ):
        assert way not in script
    assert not re.search(r"<[^>]*\son\w+=", HTML.split("<script>")[0]), (
        "a handler in an attribute would not run"
    )
    assert not re.search(r"<[^>]*\sstyle=", HTML), "nor would a style"


def test_it_is_small():
    assert len(HTML.encode()) < 175_000
