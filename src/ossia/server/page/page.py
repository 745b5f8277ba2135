"""The page at `/`: one HTML file, and the headers that keep it to itself.

Knows the file and HTTP headers. What the page does is in `page.html`, which asks the same API as
every other client.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.server.service import Service

PAGE = Path(__file__).with_name("page.html")


def router(service: Service) -> APIRouter:
    body = PAGE.read_bytes()
    headers = {
        "Content-Security-Policy": policy(body.decode()),
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Cache-Control": "no-cache",  # ask whether it is still the same
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    async def page(request: Request) -> Response:
        known = [
            tag.strip().removeprefix("W/")
            for tag in request.headers.get("if-none-match", "").split(",")
        ]
        if headers["ETag"] in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="text/html")

    made = APIRouter()
    made.add_api_route("/", page, methods=["GET", "HEAD"], include_in_schema=False)
    return made


def policy(html: str) -> str:
    """Only the page's own script and style run, named by their hashes. Nothing is loaded and
    nothing is asked but this server; no script may make HTML of text; nobody may frame the page.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash_of(html, 'script')}",
            f"style-src {_hash_of(html, 'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash_of(html: str, tag: str) -> str:
    (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
