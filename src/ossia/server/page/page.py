"""The page at `/`: one HTML document, put together from this folder's files, and the headers that
keep it to itself.

Knows these files and HTTP headers. What the page does is in its scripts, which ask the same API as
every other client.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.server.service import Service

FOLDER = Path(__file__).parent
SCRIPTS = (  # one script, in this order
    "dom.js",
    "math.js",
    "colours.js",
    "markdown.js",
    "tools.js",
    "items.js",
    "kept.js",
    "files.js",
    "offered.js",
    "server.js",
    "answers.js",
    "cards.js",
    "turns.js",
    "app.js",
)
HEADERS = {
    "Cache-Control": "no-cache",  # ask whether it is still the same
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Page:
    """`html`: the whole document. `policy`: the Content-Security-Policy that it is served with."""

    html: str
    policy: str

    @classmethod
    def of(cls, folder: Path = FOLDER) -> Page:
        def text_of(name: str) -> str:
            return (folder / name).read_text(encoding="utf-8")

        style = "\n" + text_of("style.css")
        script = "\n" + "\n".join(text_of(name) for name in SCRIPTS)
        html = text_of("index.html")
        html = html.replace("<style></style>", f"<style>{style}</style>")
        html = html.replace("<script></script>", f"<script>{script}</script>")
        return cls(html, policy(style, script))


def router(service: Service) -> APIRouter:
    page = Page.of()
    body = page.html.encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"Content-Security-Policy": page.policy, "ETag": etag, **HEADERS}

    async def serve(request: Request) -> Response:
        tags = request.headers.get("if-none-match", "").split(",")
        known = [tag.strip().removeprefix("W/") for tag in tags]
        if etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="text/html")

    made = APIRouter()
    made.add_api_route("/", serve, methods=["GET", "HEAD"], include_in_schema=False)
    return made


def policy(style: str, script: str) -> str:
    """Only the page's own script and style run, named by their hashes. Nothing is loaded, and no
    server but this one is asked; no script may make HTML of text; nobody may frame the page.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash_of(script)}",
            f"style-src {_hash_of(style)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash_of(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
