"""Requests to a server that somebody named: what they hold, and the key, go to no other. One that
is busy is asked again after a while.

Knows HTTP; neither what is asked nor what is answered.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from ossia.errors import CONTEXT_EXCEEDED, RequestError

MOST_SAID = 1 << 16  # bytes of an error
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses of what may do the next time
LONGEST_PAUSE = 60.0  # seconds between two tries
Asked = TypeVar("Asked")


class SameHost(urllib.request.HTTPRedirectHandler):
    """Follows no redirection to another host or port, or from https to less; and none of a question
    with a body, which would be asked again without it.
    """

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        old = urllib.parse.urlsplit(req.full_url)
        new = urllib.parse.urlsplit(newurl)
        is_less_safe = old.scheme == "https" and new.scheme != "https"
        why = ""
        if is_less_safe or new.hostname != old.hostname or new.port != old.port:
            why = f"it redirects to {new.scheme}://{new.netloc}, which was not asked for"
        elif req.data is not None:
            why = f"it redirects to {newurl}: give the URL that this belongs to"
        if why:
            raise urllib.error.HTTPError(req.full_url, code, why, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


OPENER = urllib.request.build_opener(SameHost)


def patiently(
    ask: Callable[[], Asked],
    tries: int,
    pause: Callable[[float], object],
    also: tuple[type[Exception], ...] = (),
) -> Asked:
    """What `ask` returns, asked up to so many times, with a longer `pause` before each: as long as
    the server says that it is busy, or an error of `also` comes. Raises the last error.
    """
    for tried in range(1, tries):
        try:
            return ask()
        except urllib.error.HTTPError as error:
            seconds = busy_for(error, tried)
            if not seconds:
                raise
        except also:
            seconds = min(LONGEST_PAUSE, 2.0**tried)
        pause(seconds)
    return ask()


def busy_for(error: BaseException, tried: int) -> float:
    """Seconds to wait for a server that says that it is busy, before try `tried` + 1; 0 for any
    other error.
    """
    if not isinstance(error, urllib.error.HTTPError) or error.code not in BUSY:
        return 0.0
    return min(LONGEST_PAUSE, max(2.0**tried, _wanted(error)))


def _wanted(error: urllib.error.HTTPError) -> float:
    """Seconds that a server asks for; 0 if it names none, or a date."""
    text = str(error.headers.get("Retry-After", ""))
    return float(text) if text.isascii() and text.isdecimal() else 0.0


def error_in(text: str) -> dict[str, str]:
    """`message` and `code` out of {"error": {...}}, {"error": "..."} and what is like them."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    inner = found.get("error") or found
    if not isinstance(inner, dict):
        return {"message": str(inner)}
    about = {"message": str(inner.get("message") or inner.get("detail") or "")}
    if inner.get("code") == CONTEXT_EXCEEDED:
        about["code"] = CONTEXT_EXCEEDED
    return about


def reason_of(error: urllib.error.HTTPError) -> str:
    """What a server says of its error, else what the status stands for."""
    try:
        text = error.read(MOST_SAID).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException, ValueError):
        text = ""
    return error_in(text).get("message") or str(error.reason)


def checked_key(key: str, variable: str) -> str:
    """Without blanks around it. Raises `RequestError` for one that cannot be sent, which names the
    variable that it came from and does not show it.
    """
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise RequestError(
            f"the API key holds characters that a header cannot carry; set {variable} to the key "
            "alone",
            "key",
        )
    return key


def headers_with(key: str) -> dict[str, str]:
    """Of a request whose body is JSON."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return headers
