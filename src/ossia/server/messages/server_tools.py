"""Tools that the server runs, as Anthropic's server tools: their declarations, and the blocks of
uses, results and citations.

`web_search`, `web_fetch` and `code_execution` of any version are the browser's `search` and `open`,
and `python`. Results carry, sealed, what the model was told, so that a client that sends them back
whole goes on exactly. Plain dicts. Knows items of a turn; nothing of streams.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from ossia.harmony import Message, Role
from ossia.server.hosted.told import told
from ossia.server.wire.fields import At
from ossia.tools import Tool
from ossia.tools.kinds import BROWSER, PYTHON
from ossia.turn.events import BuiltinCallItem, Citation, ItemDelta, new_id

Block = dict[str, Any]
SEARCH = "web_search"
FETCH = "web_fetch"
CODE = "code_execution"
TYPE = re.compile(rf"({SEARCH}|{FETCH}|{CODE})_20\d{{6}}")
KINDS = {SEARCH: BROWSER, FETCH: BROWSER, CODE: PYTHON}
RECIPIENTS = {SEARCH: "browser.search", FETCH: "browser.open", CODE: "python"}
SEALED = "encrypted_content"  # Anthropic's field of search results; of the other results, ours
LONGEST_CITED = 150  # characters, as there
TEXT = "text/plain"


# ---- declarations ----


def as_ours(tool: At, builtin: Mapping[str, Tool]) -> At:
    """The declaration of a server tool that there is, under the name that its type has here; others
    unchanged.
    """
    found = TYPE.fullmatch(str(tool["type"].value))
    if found is None or KINDS[found[1]].name not in builtin:
        return tool
    kind = min(KINDS[found[1]].wire_types)
    return At({**tool.value, "type": kind}, tool.path)


def uses_of(tools: Iterator[At]) -> dict[str, int]:
    """How often a recipient may be called, for tools that say so. Raises `ApiError`."""
    uses = {}
    for tool in tools:
        found = TYPE.fullmatch(str(tool["type"].value))
        most = tool["max_uses"]
        if found is None or most.value is None:
            continue
        if type(most.value) is not int or most.value < 1:
            raise most.wrong("must be a whole number, at least 1")
        uses[RECIPIENTS[found[1]]] = most.value
    return uses


# ---- uses and results ----


def name_of(item: BuiltinCallItem) -> str:
    if item.kind is PYTHON:
        return CODE
    return SEARCH if item.function == "search" else FETCH


def input_of_call(item: BuiltinCallItem) -> dict[str, Any]:
    """Of a call of the browser: what was searched, or opened."""
    action = item.action or {}
    wanted: tuple[str, ...] = ("url", "pattern")
    if name_of(item) == SEARCH:
        wanted = ("query",)
    asked = {}
    for name in wanted:
        if action.get(name) is not None:
            asked[name] = action[name]
    return asked


def _searched(item: BuiltinCallItem, sealed: str) -> Any:
    """The first result has what the model was told of all."""
    if item.failed:
        return _error(SEARCH, item, sealed)
    found = []
    for page in item.outputs:
        url = page["url"]
        block = {
            "type": "web_search_result",
            "url": url,
            "title": page.get("title") or url,
            SEALED: sealed,
            "page_age": None,
        }
        found.append(block)
        sealed = ""
    return found


def _fetched(item: BuiltinCallItem, sealed: str) -> Any:
    if item.failed or not item.outputs:
        return _error(FETCH, item, sealed)
    page = item.outputs[0]
    source = {
        "type": "text",
        "media_type": TEXT,
        "data": item.result,
    }
    document = {
        "type": "document",
        "source": source,
        "title": page.get("title"),
    }
    return {
        "type": "web_fetch_result",
        "url": page["url"],
        "content": document,
        "retrieved_at": _now(),
        SEALED: sealed,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ran(item: BuiltinCallItem, sealed: str) -> Any:
    """Code has one output here, and its figures are files in its container."""
    if item.failed and not item.outputs:
        return _error(CODE, item, sealed)
    printed = [each["logs"] for each in item.outputs if each.get("type") == "logs"]
    return {
        "type": "code_execution_result",
        "stdout": "\n".join(printed),
        "stderr": "",
        "return_code": int(item.failed),
        "content": [],
        SEALED: sealed,
    }


RESULTS = {SEARCH: _searched, FETCH: _fetched, CODE: _ran}


def _error(name: str, item: BuiltinCallItem, sealed: str) -> Block:
    code = "unavailable"
    for each in item.outputs:
        if each.get("type") == "error":
            code = each["code"]
    return {
        "type": f"{name}_tool_result_error",
        "error_code": code,
        SEALED: sealed,
    }


def sealed_in(content: Any) -> str:
    """Of a result block that comes back; "" without one."""
    results = content if isinstance(content, list) else [content]
    for each in results:
        if not isinstance(each, Mapping):
            continue
        found = each.get(SEALED)
        if isinstance(found, str) and found:
            return found
    return ""


class ServerCalls:
    """The calls of one answer that we carry out: ids of their blocks, what they count, and what the
    model was shown, which citations quote.
    """

    def __init__(self, seal: Callable[[str], str]) -> None:
        self.seal = seal
        self.ids: dict[int, str] = {}  # by the item's index
        self.container_id = ""
        self._shown: dict[int, str] = {}  # by cursor
        self._counts: Counter[str] = Counter()

    def use(self, index: int, item: BuiltinCallItem) -> Block:
        """A block; its input comes in deltas: `opening`, `more` and `closing`."""
        id = new_id("srvtoolu")
        self.ids[index] = id
        return {
            "type": "server_tool_use",
            "id": id,
            "name": name_of(item),
            "input": {},
        }

    def opening(self, item: BuiltinCallItem) -> str:
        if item.kind is PYTHON:
            return '{"code": "'
        return json.dumps(input_of_call(item), ensure_ascii=False)

    def more(self, item: BuiltinCallItem, text: str) -> str:
        """Code as it comes."""
        if item.kind is not PYTHON:
            return ""
        return json.dumps(text, ensure_ascii=False)[1:-1]

    def closing(self, item: BuiltinCallItem) -> str:
        return '"}' if item.kind is PYTHON else ""

    def result(self, index: int, item: BuiltinCallItem) -> Block:
        name = name_of(item)
        self._counts[name] += 1
        self._note(item)
        sealed = self.seal(told(item))
        content = RESULTS[name](item, sealed)
        return {
            "type": f"{name}_tool_result",
            "tool_use_id": self.ids[index],
            "content": content,
        }

    def _note(self, item: BuiltinCallItem) -> None:
        if item.kind is PYTHON:
            self.container_id = (item.action or {}).get("container_id", "")
        for page in item.outputs:
            if "cursor" in page:
                self._shown[page["cursor"]] = item.result

    def citations(self, delta: ItemDelta) -> list[Block]:
        blocks = (cited(each, self._shown) for each in delta.citations)
        return [block for block in blocks if block is not None]

    def usage(self) -> dict[str, int]:
        return {f"{name}_requests": self._counts[name] for name in (SEARCH, FETCH)}


# ---- results that come back ----


def shown_by(use: Any, content: Any) -> tuple[Message, ...]:
    """A call and its result as far as their blocks show them, for clients that send back only what
    they know. Nothing of searches, whose results show addresses alone.
    """
    match use, content:
        case {"input": {"code": str(code)}}, {"stdout": str(out), "stderr": str(err)}:
            printed = "\n".join(filter(None, [out, err]))
            return _told("python", "code", code, printed)
        case {"input": {"url": str(url)}}, {"content": {"source": {"data": str(text)}}}:
            asked = json.dumps({"id": url}, ensure_ascii=False)
            return _told(RECIPIENTS[FETCH], "code", asked, text)
    return ()


def _told(recipient: str, kind: str, call: str, result: str) -> tuple[Message, ...]:
    return (
        Message(Role.ASSISTANT, call, None, "analysis", recipient, kind),
        Message(Role.TOOL, result, recipient, "analysis", "assistant"),
    )


# ---- citations ----


def cited(citation: Citation, shown: Mapping[int, str]) -> Block | None:
    """`shown`: what the model was shown, by cursor. The index says where the citation stands in the
    text, for when it comes back. None for what Anthropic's API has no form for.
    """
    facts = citation.placed()
    if facts.get("type") != "url_citation":
        return None
    cursor = facts["cursor"]
    lines = facts["lines"]
    place = [cursor, lines, citation.start, citation.end]
    text = _lines(shown.get(cursor, ""), lines)
    return {
        "type": "web_search_result_location",
        "url": facts["url"],
        "title": facts["title"],
        "cited_text": text[:LONGEST_CITED],
        "encrypted_index": json.dumps(place),
    }


def _lines(display: str, lines: list[int] | None) -> str:
    """Of what the browser shows, which numbers its lines."""
    if lines is None:
        return ""
    first, last = lines
    numbered = re.findall(r"^L(\d{1,9}): (.*)$", display, re.M)
    return "\n".join(text for number, text in numbered if first <= int(number) <= last)


def placed(citations: Any) -> list[dict[str, Any]]:
    """Those of a text block that comes back, as `hosted.citing.with_marks` reads them."""
    found: list[dict[str, Any]] = []
    if isinstance(citations, list):
        for each in citations:
            found += _placed(each)
    return found


def _placed(citation: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(citation, Mapping):
        return
    index = citation.get("encrypted_index")
    if not isinstance(index, str):
        return
    try:
        cursor, lines, start, end = orjson.loads(index)
    except (ValueError, TypeError):  # another server's
        return
    yield {
        "type": "url_citation",
        "cursor": cursor,
        "lines": lines,
        "start_index": start,
        "end_index": end,
    }
