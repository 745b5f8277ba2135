"""What the tables of both databases hold, in words: a stored response, ids, sizes, packing."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ossia.tools.kinds import KINDS

UNFINISHED = ("queued", "in_progress")  # statuses of a response that an answer is still to change
OVERHEAD = 256  # bytes of a row besides its JSON: keys, indexes
WINDOW = 32 << 10  # bytes that zlib looks back
SHORT = 256 << 10  # bytes that are compressed in a few milliseconds
UNKEPT = re.compile("[\0\ud800-\udfff]")
ZLIB = b"\x78"  # how what zlib wrote begins, and JSON never does
PREFIXES = {  # of the ids of items
    **{kind.item: kind.id_prefix for kind in KINDS},
    "message": "msg",
    "reasoning": "rs",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
    "compaction_trigger": "cmpt",
    # of tools that other servers run: what they did is no part of the prompt
    "file_search_call": "fs",
    "image_generation_call": "ig",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcprs",
    "apply_patch_call_output": "apco",
    "shell_call_output": "sho",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
}


@dataclass(frozen=True)
class StoredResponse:
    """`response`: the Response object. `history`: the items before this request, `input`: this
    request's, all with ids. `expires`: seconds since 1970; 0: the store decides. `thread`: the
    first response of its chain, or its conversation: whose state its tools see; "": itself.
    `home`: the address of the server that answers it, where several share the store. `begun`: when
    the request began that it answers, or when it was read; 0: now. It is not kept if all of its
    owner's was deleted since.
    """

    id: str
    owner: str
    response: dict[str, Any]
    history: list[dict[str, Any]]
    input: list[dict[str, Any]]
    expires: float = 0.0
    thread: str = ""
    home: str = ""
    begun: float = field(default=0.0, compare=False)

    @property
    def item_ids(self) -> list[str]:
        """Of this request's items and its answer's."""
        output = self.response.get("output") or []
        return [item["id"] for item in (*self.input, *output) if item.get("id")]

    @property
    def is_finished(self) -> bool:
        return self.response.get("status") not in UNFINISHED


def plain(values: Sequence[Any]) -> list[Any]:
    """Text in them without what not every database takes: nothing stands for half of a pair. Ids
    that differ in nothing else are one.
    """
    return [UNKEPT.sub("\ufffd", each) if isinstance(each, str) else each for each in values]


class Packing:
    """Compresses JSON as what is different from the first that came: responses are alike."""

    def __init__(self) -> None:
        self._alike = b""

    def packed(self, data: bytes) -> bytes:
        """What is long would hold up everybody, and stays as it is."""
        if len(data) > SHORT:
            return data
        self._alike = self._alike or data[:WINDOW]
        packing = zlib.compressobj(1, zdict=self._alike)
        return packing.compress(data) + packing.flush()

    def unpacked(self, data: bytes) -> Any:
        """JSON, packed or not."""
        if data.startswith(ZLIB):
            data = zlib.decompressobj(zdict=self._alike).decompress(data)
        return orjson.loads(data)
