"""Tool schemas of the kinds that MCP servers, agents and generators of schemas declare, written in
their style: each with values that validate, and the keywords that sampling cannot be held to.

Data for tests/harmony/grammar/test_agent_schemas.py. The judge of values is the `jsonschema`
package; nothing here says what is invalid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]
DRAFT_7 = "http://json-schema.org/draft-07/schema#"


@dataclass(frozen=True)
class Case:
    """`values`: that validate, keys in the declared order. `relaxed`: pointers to the keywords that
    cannot be enforced. `judge`: the schema in words of the standard, if it is not.
    """

    name: str
    schema: Schema
    values: tuple[Any, ...]
    relaxed: frozenset[str] = frozenset()
    judge: Schema | None = None


CASES: list[Case] = []


def case(
    name: str, schema: Schema, *values: Any, relaxed: str = "", judge: Schema | None = None
) -> None:
    CASES.append(Case(name, schema, values, frozenset(relaxed.split()), judge))


def obj(needed: str = "", /, **properties: Any) -> Schema:
    """As hand-written servers have it: open, and without `required` if nothing is."""
    made: Schema = {"type": "object", "properties": properties}
    return made | ({"required": needed.split()} if needed else {})


def closed(needed: str = "", /, **properties: Any) -> Schema:
    return obj(needed, **properties) | {"additionalProperties": False}


def zod(needed: str = "", /, **properties: Any) -> Schema:
    """As zod-to-json-schema writes it."""
    return closed(needed, **properties) | {"$schema": DRAFT_7}


def strs(description: str = "", **more: Any) -> Schema:
    return {"type": "string", **({"description": description} if description else {}), **more}


def many(items: Any, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def maybe(schema: Schema) -> Schema:
    """As pydantic writes Optional."""
    return {"anyOf": [schema, {"type": "null"}], "default": None}


ANY = ("null", "boolean", "number", "string", "array", "object")
STR = {"type": "string"}
INT = {"type": "integer"}
NUM = {"type": "number"}
FLAG = {"type": "boolean"}
REPO = {"owner": strs("Repository owner"), "repo": strs("Repository name")}
PAGES = {
    "page": {"type": "number", "minimum": 1},
    "perPage": {"type": "number", "minimum": 1, "maximum": 100},
}
WHO = {"owner": "octo", "repo": "cat"}


# ---- GitHub ----

case(
    "github create_issue",
    obj(
        "owner repo title",
        **REPO,
        title=strs("Issue title"),
        body=STR,
        assignees=many(STR),
        labels=many(STR),
    ),
    WHO | {"title": "Broken"},
    WHO | {"title": "Broken", "body": "It is.", "labels": ["bug", "p1"]},
)
case(
    "github list_issues",
    obj(
        "owner repo",
        **REPO,
        state={"type": "string", "enum": ["open", "closed", "all"]},
        since=strs("ISO 8601 timestamp"),
        direction={"enum": ["asc", "desc"]},
        **PAGES,
    ),
    WHO | {"state": "open"},
    WHO | {"state": "all", "direction": "asc", "page": 1, "perPage": 100},
)
case(
    "github search_code",
    obj(
        "query",
        query=strs("Search query using GitHub's code search syntax"),
        sort=STR,
        order=strs(enum=["asc", "desc"]),
        **PAGES,
    ),
    {"query": "repo:a/b language:go", "order": "desc"},
)
case(
    "github create_or_update_file",
    obj(
        "owner repo path content message branch",
        **REPO,
        path=STR,
        content=STR,
        message=STR,
        branch=STR,
        sha=STR,
    ),
    WHO | {"path": "a/b.py", "content": "x = 1\n", "message": "Add", "branch": "main"},
)
case(
    "github push_files",
    obj(
        "owner repo branch files message",
        **REPO,
        branch=STR,
        files=many(closed("path content", path=STR, content=STR)),
        message=STR,
    ),
    WHO | {"branch": "main", "files": [{"path": "a", "content": "b"}], "message": "m"},
    WHO | {"branch": "main", "files": [], "message": "m"},
)
case(
    "github merge_pull_request",
    obj(
        "owner repo pullNumber",
        **REPO,
        pullNumber=NUM,
        commit_title=STR,
        merge_method=strs(enum=["merge", "squash", "rebase"]),
    ),
    WHO | {"pullNumber": 7, "merge_method": "squash"},
)
case(
    "github get_commit",
    obj("owner repo sha", **REPO, sha=strs(pattern="^[0-9a-f]{7,40}$")),
    WHO | {"sha": "0123abc"},
)
case(
    "github pull_request_review_write",
    obj(
        "method owner repo pullNumber",
        method=strs(enum=["create", "submit_pending", "delete_pending"]),
        **REPO,
        pullNumber=NUM,
        event=strs(enum=["APPROVE", "REQUEST_CHANGES", "COMMENT"]),
    ),
    {"method": "create"} | WHO | {"pullNumber": 1, "event": "APPROVE"},
)
case(
    "github get_file_contents",
    obj("owner repo", **REPO, path=strs(default="/"), ref=STR, sha=STR)
    | {"oneOf": [{"required": ["ref"]}, {"required": ["sha"]}]},
    WHO | {"ref": "main"},
    WHO | {"path": "a", "sha": "abc"},
    relaxed="#/oneOf",
)
case(
    "github create_gist",
    obj(
        "files",
        description=STR,
        files={
            "type": "object",
            "additionalProperties": obj("content", content=STR),
            "minProperties": 1,
        },
        public={**FLAG, "default": False},
    ),
    {"files": {"a.txt": {"content": "x"}}, "public": True},
)
case(
    "github update_label",
    obj(
        "owner repo name",
        **REPO,
        name=STR,
        color=strs(pattern=r"^(?:[0-9a-fA-F]{3}){1,2}$"),
        new_name=STR,
    ),
    WHO | {"name": "bug", "color": "ff00AA"},
)
case(
    "github create_branch",
    obj("owner repo branch", **REPO, branch=strs(pattern=r"^(?!/)(?!.*//)[^\s~^:?*\[]+$")),
    WHO | {"branch": "feat/x"},
    relaxed="#/properties/branch/pattern",
)
case(
    "github workflow_dispatch",
    obj(
        "owner repo workflow_id ref",
        **REPO,
        workflow_id={"oneOf": [INT, STR]},
        ref=STR,
        inputs={"type": "object", "additionalProperties": STR, "maxProperties": 10},
    ),
    WHO | {"workflow_id": 5, "ref": "main"},
    WHO | {"workflow_id": "ci.yml", "ref": "main", "inputs": {"a": "b"}},
)

# ---- Slack ----

TS = strs("Message timestamp", pattern=r"^\d{10}\.\d{6}$")
case(
    "slack post_message",
    obj("channel_id text", channel_id=strs("The ID of the channel"), text=STR),
    {"channel_id": "C1", "text": "hi"},
)
case(
    "slack reply_to_thread",
    obj("channel_id thread_ts text", channel_id=STR, thread_ts=TS, text=STR),
    {"channel_id": "C1", "thread_ts": "1234567890.123456", "text": "hi"},
)
case(
    "slack add_reaction",
    obj(
        "channel_id timestamp reaction",
        channel_id=STR,
        timestamp=STR,
        reaction=strs("without ::", pattern=r"^[^:\s]+$"),
    ),
    {"channel_id": "C1", "timestamp": "1.2", "reaction": "+1"},
)
case(
    "slack conversations_history",
    obj(
        "channel_id",
        channel_id=STR,
        limit={"type": "number", "default": 10, "maximum": 999},
        cursor=STR,
        oldest=STR,
    ),
    {"channel_id": "C1", "limit": 50},
)
case(
    "slack list_channels",
    obj(
        "",
        types={
            **STR,
            "default": "public_channel",
            "enum": ["public_channel", "private_channel", "im"],
        },
        limit=INT,
    ),
    {},
    {"types": "im", "limit": 3},
)
case(
    "slack blocks",
    obj(
        "channel blocks",
        channel=STR,
        blocks=many(
            {
                "oneOf": [
                    obj("type text", type={"const": "section"}, text=STR),
                    obj("type", type={"const": "divider"}),
                ]
            },
            maxItems=50,
        ),
    ),
    {"channel": "C", "blocks": [{"type": "divider"}, {"type": "section", "text": "x"}]},
)
case(
    "slack schedule",
    obj(
        "channel post_at",
        channel=STR,
        post_at={"type": "integer", "exclusiveMinimum": 0},
        text=STR,
        blocks=STR,
    )
    | {"anyOf": [{"required": ["text"]}, {"required": ["blocks"]}]},
    {"channel": "C", "post_at": 1700000000, "text": "x"},
)

# ---- Notion, an OpenAPI description converted ----

UUID = strs(format="uuid")
RICH = obj(
    "text",
    text=closed(
        "content",
        content=strs(maxLength=2000),
        link={"type": ["object", "null"], "properties": {"url": STR}},
    ),
    type={"enum": ["text"]},
)
PARENT = {"oneOf": [obj("page_id", page_id=UUID), obj("database_id", database_id=UUID)]}
ID = "123e4567-e89b-12d3-a456-426614174000"
case(
    "notion post-search",
    obj(
        "",
        query=STR,
        sort=obj(
            "direction timestamp",
            direction=strs(enum=["ascending", "descending"]),
            timestamp=strs(enum=["last_edited_time"]),
        ),
        filter=obj("", value=STR, property=STR),
        start_cursor=STR,
        page_size={"type": "integer", "default": 100, "minimum": 1, "maximum": 100},
    ),
    {
        "query": "plan",
        "sort": {"direction": "ascending", "timestamp": "last_edited_time"},
        "page_size": 10,
    },
)
case(
    "notion retrieve-a-page",
    obj("page_id", page_id=UUID, filter_properties=many(STR)),
    {"page_id": ID},
)
case(
    "notion post-page",
    obj(
        "parent properties",
        parent=PARENT,
        properties={"type": "object", "additionalProperties": True},
        children=many(STR),
        icon=strs(format="json"),
        cover=strs(format="json"),
    ),
    {"parent": {"page_id": ID}, "properties": {"title": []}},
    relaxed="#/properties/parent/oneOf #/properties/icon/format #/properties/cover/format",
)
case(
    "notion patch-block-children",
    obj(
        "block_id children",
        block_id=UUID,
        children=many(
            {"anyOf": [{"$ref": "#/$defs/paragraph"}, {"$ref": "#/$defs/bullet"}]}, maxItems=100
        ),
        after=UUID,
    )
    | {
        "$defs": {
            "paragraph": closed(
                "type paragraph",
                type={"const": "paragraph"},
                paragraph=obj("rich_text", rich_text=many({"$ref": "#/$defs/rich"})),
            ),
            "bullet": closed(
                "type bulleted_list_item",
                type={"const": "bulleted_list_item"},
                bulleted_list_item=obj("rich_text", rich_text=many({"$ref": "#/$defs/rich"})),
            ),
            "rich": RICH,
        }
    },
    {
        "block_id": ID,
        "children": [
            {
                "type": "paragraph",
                "paragraph": {"rich_text": [{"text": {"content": "Hi"}, "type": "text"}]},
            }
        ],
    },
)
case(
    "notion create-a-comment",
    obj("parent rich_text", parent=closed("page_id", page_id=UUID), rich_text=many(RICH)),
    {"parent": {"page_id": ID}, "rich_text": [{"text": {"content": "x", "link": None}}]},
)
case(
    "notion post-database-query",
    obj(
        "database_id",
        database_id=UUID,
        filter={
            "type": "object",
            "oneOf": [{"required": ["or"]}, {"required": ["and"]}, {"required": ["property"]}],
            "properties": {
                "or": many({"type": "object"}),
                "and": many({"type": "object"}),
                "property": STR,
            },
        },
        archived=FLAG,
        in_trash=FLAG,
    ),
    {"database_id": ID, "filter": {"property": "Done"}},
    {"database_id": ID, "archived": False},
    relaxed="#/properties/filter/oneOf",
)
case(
    "notion icon",
    obj(
        "icon",
        icon={
            "anyOf": [
                closed("emoji", emoji=strs(pattern=r"^\p{Emoji}$")),
                closed("url", url=strs(format="uri")),
            ]
        },
    ),
    {"icon": {"url": "https://a.b/c.png"}},
    relaxed="#/properties/icon/anyOf/0/properties/emoji/pattern",
)
case(
    "notion update-a-property",
    obj(
        "id",
        id=STR,
        body={"type": "object", "not": {"required": ["id"]}, "properties": {"name": STR}},
    ),
    {"id": "x", "body": {"name": "y"}},
    relaxed="#/properties/body/not",
)

# ---- the file system ----

case(
    "fs read_text_file",
    zod("path", path=STR, tail={"type": "number", "description": "last N lines"}, head=NUM),
    {"path": "/a"},
    {"path": "/a", "head": 3},
)
case("fs read_multiple_files", zod("paths", paths=many(STR, minItems=1)), {"paths": ["/a", "/b"]})
case(
    "fs write_file",
    zod("path content", path=STR, content=STR),
    {"path": "/a", "content": 'b\n\t"c"'},
)
case(
    "fs edit_file",
    zod(
        "path edits",
        path=STR,
        edits=many(closed("oldText newText", oldText=strs("Text to search for"), newText=STR)),
        dryRun={"type": "boolean", "default": False},
    ),
    {"path": "/a", "edits": [{"oldText": "a", "newText": ""}], "dryRun": True},
)
case(
    "fs list_directory_with_sizes",
    zod("path", path=STR, sortBy=strs(enum=["name", "size"], default="name")),
    {"path": "/", "sortBy": "size"},
)
case(
    "fs search_files",
    zod("path pattern", path=STR, pattern=STR, excludePatterns=many(STR, default=[])),
    {"path": "/", "pattern": "*.py"},
)
case(
    "fs move_file",
    zod("source destination", source=strs(minLength=1), destination=strs(minLength=1)),
    {"source": "a", "destination": "b"},
)
case(
    "fs glob",
    zod(
        "patterns",
        patterns=many(strs(minLength=1), uniqueItems=True, minItems=1),
        cwd=strs(format="path"),
    ),
    {"patterns": ["*.a", "*.b"], "cwd": "/x"},
    relaxed="#/properties/patterns/uniqueItems",
)
case(
    "fs chmod",
    zod("path mode", path=STR, mode=strs(pattern="^[0-7]{3,4}$")),
    {"path": "a", "mode": "0755"},
)
case(
    "fs tail",
    zod(
        "file",
        file=strs(format="uri-reference"),
        lines={"type": "integer", "minimum": 1, "maximum": 9007199254740991},
    ),
    {"file": "a/b", "lines": 10},
    relaxed="#/properties/file/format",
)
case("fs no arguments", zod(), {})

# ---- the browser ----

ELEMENT = {
    "element": strs("Human-readable element description"),
    "ref": strs("Exact target element reference from the page snapshot"),
}
AT = {"element": "Save button", "ref": "e12"}
case(
    "playwright browser_click",
    zod(
        "element ref",
        **ELEMENT,
        doubleClick=FLAG,
        button=strs(enum=["left", "right", "middle"]),
        modifiers=many(strs(enum=["Alt", "Control", "ControlOrMeta", "Meta", "Shift"])),
    ),
    AT,
    AT | {"button": "left", "modifiers": ["Alt"]},
)
case("playwright browser_navigate", zod("url", url=STR), {"url": "https://example.org"})
case(
    "playwright browser_type",
    zod("element ref text", **ELEMENT, text=STR, submit=FLAG, slowly=FLAG),
    AT | {"text": "hi", "submit": True},
)
case(
    "playwright browser_select_option",
    zod("element ref values", **ELEMENT, values=many(STR)),
    AT | {"values": ["a"]},
)
case(
    "playwright browser_fill_form",
    zod(
        "fields",
        fields=many(
            closed(
                "name type ref value",
                name=STR,
                type=strs(enum=["textbox", "checkbox", "radio", "combobox", "slider"]),
                ref=STR,
                value=STR,
            )
        ),
    ),
    {"fields": [{"name": "n", "type": "radio", "ref": "e1", "value": "true"}]},
)
case(
    "playwright browser_wait_for",
    zod("", time=NUM, text=STR, textGone=STR) | {"minProperties": 1},
    {"time": 1.5},
    {"text": "Done"},
)
case(
    "playwright browser_tabs",
    zod("action", action=strs(enum=["list", "new", "close", "select"]), index=NUM),
    {"action": "list"},
    {"action": "select", "index": 0},
)
case(
    "playwright browser_take_screenshot",
    closed("", type=strs(enum=["png", "jpeg"], default="png"), filename=STR, fullPage=FLAG)
    | {"dependentRequired": {"fullPage": ["filename"]}},
    {"type": "png"},
    {"filename": "a.png", "fullPage": True},
    relaxed="#/dependentRequired",
)
case(
    "playwright browser_drag",
    zod(
        "startElement startRef endElement endRef",
        startElement=STR,
        startRef=STR,
        endElement=STR,
        endRef=STR,
    ),
    {"startElement": "a", "startRef": "e1", "endElement": "b", "endRef": "e2"},
)
case(
    "playwright browser_resize",
    zod(
        "width height",
        width={"type": "number", "exclusiveMinimum": 0},
        height={"type": "number", "exclusiveMinimum": 0},
    ),
    {"width": 800, "height": 600},
)
case(
    "playwright browser_press_key",
    zod("key", key=strs("Name of the key, such as `ArrowLeft` or `a`")),
    {"key": "a"},
)
case("playwright browser_file_upload", zod("", paths=many(STR)), {}, {"paths": ["/a"]})
case(
    "playwright browser_handle_dialog", zod("accept", accept=FLAG, promptText=STR), {"accept": True}
)
case(
    "puppeteer screenshot",
    obj("name", name=STR, selector=STR, width={"type": "number", "default": 800}, encoded=FLAG),
    {"name": "x", "width": 3},
)
case(
    "fetch",
    closed(
        "url",
        url=strs(format="uri", minLength=1, title="Url"),
        max_length={
            "type": "integer",
            "default": 5000,
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 1000000,
        },
        start_index={"type": "integer", "minimum": 0},
        raw=FLAG,
    ),
    {"url": "https://example.com/a?b=c", "max_length": 100, "raw": False},
)

# ---- databases ----

case("postgres query", obj("sql", sql=STR), {"sql": "SELECT 1"})
case(
    "postgres execute",
    obj("sql", sql=STR, params=many({}), timeout_ms={"type": "integer", "minimum": 0}),
    {"sql": "SELECT $1", "params": [1, "a", None, {"x": []}]},
)
case(
    "postgres explain",
    obj(
        "sql",
        sql=STR,
        analyze={**FLAG, "default": False},
        hypothetical_indexes=many(
            obj(
                "table columns",
                table=STR,
                columns=many(STR, minItems=1),
                using=strs(default="btree", enum=["btree", "hash", "gin"]),
            )
        ),
    ),
    {"sql": "x", "hypothetical_indexes": [{"table": "t", "columns": ["a"], "using": "gin"}]},
)
case(
    "postgres connect",
    obj(
        "host",
        host=strs(format="hostname"),
        port={"type": "integer", "minimum": 1, "maximum": 65535, "default": 5432},
        user=STR,
        password=strs(format="password"),
    ),
    {"host": "db.example.com", "port": 5432, "password": "s3"},
)
case(
    "postgres transaction",
    obj("action", action=strs(enum=["begin", "commit", "query"]), sql=STR)
    | {"if": {"properties": {"action": {"const": "query"}}}, "then": {"required": ["sql"]}},
    {"action": "begin"},
    {"action": "query", "sql": "SELECT 1"},
    relaxed="#/if #/then",
)
case(
    "postgres create_table",
    obj(
        "name columns",
        name=strs(pattern="^[a-z_][a-z0-9_]*$", maxLength=63),
        columns=many(
            closed(
                "name type",
                name=STR,
                type=strs(enum=["int", "text", "jsonb"]),
                nullable={**FLAG, "default": True},
                default={"type": ["string", "number", "boolean", "null"]},
            ),
            minItems=1,
        ),
    ),
    {"name": "t", "columns": [{"name": "a", "type": "int", "nullable": False, "default": None}]},
)
case(
    "postgres insert",
    obj(
        "table rows",
        table=STR,
        rows=many(
            {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
            },
            minItems=1,
        ),
    ),
    {"table": "t", "rows": [{"a": 1, "b": None}]},
)
case(
    "mongo find",
    obj(
        "collection",
        collection=STR,
        filter={"type": "object", "additionalProperties": True},
        sort={"type": "object", "additionalProperties": {"enum": [1, -1]}},
        limit={"type": "integer", "minimum": 0},
    ),
    {"collection": "c", "filter": {"a": {"$gt": 1}}, "sort": {"a": -1}},
)
case(
    "redis set",
    obj(
        "key value",
        key=STR,
        value={"type": ["string", "number"]},
        ttl={"type": "integer", "minimum": 1},
        nx=FLAG,
        xx=FLAG,
    )
    | {"not": {"required": ["nx", "xx"]}},
    {"key": "a", "value": "b", "nx": True},
    relaxed="#/not",
)
case(
    "elastic search",
    obj(
        "index",
        index={"anyOf": [STR, many(STR)]},
        body={"type": "object"},
        size={"type": "integer", "maximum": 10000},
    ),
    {"index": ["a"], "body": {"query": {"match_all": {}}}, "size": 5},
)
case(
    "sqlite rowid",
    obj(
        "rowid",
        rowid={"type": "integer", "minimum": -9223372036854775808, "maximum": 9223372036854775807},
    ),
    {"rowid": 12},
    relaxed="#/properties/rowid/minimum #/properties/rowid/maximum",
)

# ---- zod ----

MAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-"
    r"z]{2,}$"
)
SAFE = 9007199254740991
case(
    "zod email",
    zod(
        "to subject",
        to=strs(format="email", pattern=MAIL),
        subject=strs(maxLength=998),
        importance=strs(enum=["low", "normal", "high"]),
    ),
    {"to": "ann.lee@example.com", "subject": "Hi", "importance": "low"},
    relaxed="#/properties/to/pattern",
)
case(
    "zod emails",
    zod("to", to={"anyOf": [strs(pattern=MAIL), many(strs(pattern=MAIL), minItems=1)]}, html=FLAG),
    {"to": "a@b.co"},
    {"to": ["a@b.co", "c@d.eu"]},
    relaxed="#/properties/to/anyOf/0/pattern #/properties/to/anyOf/1/items/pattern",
)
case(
    "zod int",
    zod(
        "n",
        n={"type": "integer", "minimum": -SAFE, "maximum": SAFE},
        p={"type": "integer", "exclusiveMinimum": 0, "maximum": SAFE},
    ),
    {"n": -5, "p": 1},
)
case(
    "zod record",
    zod(
        "env",
        env={"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": STR},
    ),
    {"env": {"A": "b"}},
)
case(
    "zod record of enum",
    zod(
        "scores",
        scores={
            "type": "object",
            "propertyNames": {"enum": ["a", "b"]},
            "additionalProperties": NUM,
        },
    ),
    {"scores": {"a": 1}},
    relaxed="#/properties/scores/propertyNames",
)
case(
    "zod tuple",
    zod("at", at={"type": "array", "minItems": 2, "maxItems": 2, "items": [NUM, NUM]}, label=STR),
    {"at": [1, 2.5], "label": "x"},
)
case(
    "zod tuple with a rest",
    zod("args", args={"type": "array", "minItems": 1, "items": [STR], "additionalItems": NUM}),
    {"args": ["a"]},
    {"args": ["a", 1, 2]},
)
case(
    "zod set",
    zod("tags", tags=many(strs(enum=["x", "y", "z"]), uniqueItems=True)),
    {"tags": ["x", "z"]},
    relaxed="#/properties/tags/uniqueItems",
)
case(
    "zod discriminated union",
    zod(
        "shape",
        shape={
            "anyOf": [
                closed("kind radius", kind={"type": "string", "const": "circle"}, radius=NUM),
                closed("kind side", kind={"type": "string", "const": "square"}, side=NUM),
            ]
        },
    ),
    {"shape": {"kind": "circle", "radius": 2}},
    {"shape": {"kind": "square", "side": 2}},
)
case(
    "zod discriminated union, new",
    zod(
        "op",
        op={
            "oneOf": [
                closed("op path", op={"const": "add"}, path=STR),
                closed("op", op={"const": "list"}),
            ]
        },
    ),
    {"op": {"op": "list"}},
    {"op": {"op": "add", "path": "/"}},
)
case(
    "zod native enum",
    zod(
        "level",
        level={"type": "number", "enum": [0, 1, 2]},
        mixed={"type": ["string", "number"], "enum": ["a", 1]},
    ),
    {"level": 2, "mixed": 1},
)
case(
    "zod nullable",
    zod("a b", a={"type": ["string", "null"]}, b={"anyOf": [closed("x", x=NUM), {"type": "null"}]}),
    {"a": None, "b": {"x": 1}},
    {"a": "y", "b": None},
)
case("zod never", zod("a", a=STR, b={"not": {}}), {"a": "x"}, relaxed="#/properties/b/not")
case("zod any", zod("a", a={}, b=True), {"a": [1, {"x": None}], "b": 3})
case(
    "zod url and dates",
    zod(
        "url at",
        url=strs(format="uri"),
        at=strs(format="date-time"),
        day=strs(format="date"),
        id=strs(format="uuid"),
    ),
    {"url": "https://a.b", "at": "2024-05-06T07:08:09Z", "day": "2024-02-29", "id": ID},
)
case(
    "zod cuid and base64",
    zod(
        "id",
        id=strs(format="cuid", pattern="^[cC][^\\s-]{8,}$"),
        data=strs(
            format="base64",
            contentEncoding="base64",
            pattern="^$|^(?:[0-9a-zA-Z+/]{4})*(?:(?:[0-9a-zA-Z+/]{2}==)|(?:[0-9a-zA-Z+/]{3}=))?$",
        ),
        jwt=strs(format="jwt"),
    ),
    {"id": "cjld2cjxh0000qzrmn831i7rn", "data": "QUJD"},
    relaxed="#/properties/id/format #/properties/data/format #/properties/jwt/format",
)
case(
    "zod emoji",
    zod(
        "reaction",
        reaction=strs(pattern=r"^(\p{Extended_Pictographic}|\p{Emoji_Component})+$"),
        count=INT,
    ),
    {"reaction": "\U0001f44d", "count": 1},
    relaxed="#/properties/reaction/pattern",
)
case(
    "zod lazy",
    zod(
        "root",
        root={"anyOf": [STR, closed("children", children=many({"$ref": "#/properties/root"}))]},
    ),
    {"root": {"children": ["a", {"children": []}]}},
)
case(
    "zod multiple of",
    zod(
        "price",
        price={"type": "number", "minimum": 0, "multipleOf": 0.01},
        step={"type": "integer", "multipleOf": 5},
    ),
    {"price": 1.25, "step": 10},
    relaxed="#/properties/price/multipleOf",
)
case(
    "zod intersection",
    {"allOf": [obj("a", a=STR), obj("b", b=INT)], "type": "object", "$schema": DRAFT_7},
    {"a": "x", "b": 1},
)
case("zod passthrough", zod("a", a=STR) | {"additionalProperties": True}, {"a": "x", "other": 3})
case("zod catchall", zod("a", a=STR) | {"additionalProperties": NUM}, {"a": "x", "other": 3})
case(
    "zod ip",
    zod("ip", ip={"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
    {"ip": "10.0.0.1"},
    {"ip": "::1"},
)
case(
    "zod time and duration",
    zod("t", t=strs(format="time"), d=strs(format="duration")),
    {"t": "10:00:00Z", "d": "PT5M"},
)

# ---- pydantic ----

case(
    "pydantic optional",
    closed(
        "city",
        city={"title": "City", "type": "string"},
        days=maybe({"type": "integer", "minimum": 1}),
        unit={"$ref": "#/$defs/Unit"},
    )
    | {
        "$defs": {"Unit": {"enum": ["c", "f"], "title": "Unit", "type": "string"}},
        "title": "Weather",
    },
    {"city": "Rome"},
    {"city": "Rome", "days": None, "unit": "c"},
)
case(
    "pydantic set",
    obj("tags", tags={"items": STR, "title": "Tags", "type": "array", "uniqueItems": True}, n=INT),
    {"tags": ["a"], "n": 1},
    relaxed="#/properties/tags/uniqueItems",
)
case(
    "pydantic uuid4",
    obj("id", id=strs(format="uuid4")),
    {"id": ID},
    relaxed="#/properties/id/format",
)
case(
    "pydantic bytes",
    obj(
        "data kind",
        data=strs(format="binary"),
        kind={"const": "blob", "title": "Kind", "type": "string"},
    ),
    {"data": "abc", "kind": "blob"},
    relaxed="#/properties/data/format",
)
case(
    "pydantic decimal",
    obj(
        "amount",
        amount={
            "anyOf": [
                {"type": "number", "minimum": 0},
                strs(pattern=r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"),
            ]
        },
        currency=strs(minLength=3, maxLength=3),
    ),
    {"amount": 1.5, "currency": "EUR"},
    {"amount": "1.50"},
    relaxed="#/properties/amount/anyOf/1/pattern",
)
case(
    "pydantic tagged union",
    obj(
        "pet",
        pet={
            "discriminator": {
                "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"},
                "propertyName": "kind",
            },
            "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        },
    )
    | {
        "$defs": {
            "Cat": obj("kind lives", kind={"const": "cat", "type": "string"}, lives=INT),
            "Dog": obj(
                "kind", kind={"const": "dog", "type": "string"}, good={**FLAG, "default": True}
            ),
        }
    },
    {"pet": {"kind": "cat", "lives": 9}},
    {"pet": {"kind": "dog"}},
)
case(
    "pydantic dict",
    obj(
        "counts",
        counts={"additionalProperties": {"type": "integer"}, "title": "Counts", "type": "object"},
    ),
    {"counts": {"a": 1}},
)
case(
    "pydantic dict of literals",
    obj(
        "counts",
        counts={
            "type": "object",
            "propertyNames": {"enum": ["a", "b"]},
            "additionalProperties": INT,
            "maxProperties": 1,
        },
    ),
    {"counts": {"a": 1}},
    relaxed="#/properties/counts/propertyNames",
)
case(
    "pydantic tuple",
    obj("point", point={"type": "array", "prefixItems": [NUM, NUM], "minItems": 2, "maxItems": 2}),
    {"point": [1, 2]},
)
case(
    "pydantic tree",
    obj("root", root={"$ref": "#/$defs/Node"})
    | {
        "$defs": {
            "Node": closed("name", name=STR, children=many({"$ref": "#/$defs/Node"}, default=[]))
        }
    },
    {"root": {"name": "a", "children": [{"name": "b"}]}},
)
case(
    "pydantic secret and paths",
    obj(
        "token path",
        token=strs(format="password", writeOnly=True),
        path=strs(format="path"),
        dir=strs(format="directory-path"),
    ),
    {"token": "x", "path": "/a"},
)
case(
    "pydantic timedelta",
    obj("wait", wait=strs(format="duration"), day=strs(format="date"), at=strs(format="date-time")),
    {"wait": "PT5M", "at": "2024-05-06T07:08:09+02:00"},
)
case(
    "pydantic conlist",
    obj(
        "xs",
        xs=many({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, minItems=1, maxItems=3),
    ),
    {"xs": [0.5, 1]},
)
case(
    "pydantic json",
    obj("data", data=strs(contentMediaType="application/json", contentSchema={})),
    {"data": "{}"},
)
case(
    "pydantic network",
    obj(
        "ip",
        ip=strs(format="ipvanyaddress"),
        net=strs(format="ipv4network"),
        mail=strs(format="email"),
    ),
    {"ip": "::1", "mail": "a@b.co"},
    relaxed="#/properties/ip/format #/properties/net/format",
)
case(
    "pydantic pattern",
    obj("sku", sku=strs(pattern=r"^[A-Z]{3}-\d{4}$"), word=strs(pattern=r"\bfoo\b")),
    {"sku": "ABC-0001", "word": "a foo"},
    relaxed="#/properties/word/pattern",
)
case(
    "pydantic literal union",
    obj(
        "mode",
        mode={
            "anyOf": [{"const": "auto", "type": "string"}, {"type": "integer"}, {"type": "null"}]
        },
    ),
    {"mode": "auto"},
    {"mode": None},
)
case(
    "pydantic nested model",
    obj("filters", filters=many({"$ref": "#/$defs/Filter"}))
    | {
        "$defs": {
            "Filter": obj(
                "field op value",
                field=STR,
                op={"$ref": "#/$defs/Op"},
                value={"anyOf": [STR, NUM, FLAG]},
            ),
            "Op": {"enum": ["eq", "lt"], "type": "string"},
        }
    },
    {"filters": [{"field": "a", "op": "lt", "value": 3}]},
)

# ---- other generators: schemars, TypeBox, invopop, ts-json-schema-generator ----

case(
    "schemars",
    obj(
        "count mode",
        count={"type": "integer", "format": "uint32", "minimum": 0.0},
        mode={
            "oneOf": [
                {"const": "Fast", "description": "quick", "type": "string"},
                {"const": "Slow", "type": "string"},
            ]
        },
        limit={"type": ["integer", "null"], "format": "uint", "minimum": 0.0},
    ),
    {"count": 3, "mode": "Fast", "limit": None},
)
case(
    "schemars old",
    obj(
        "level",
        level={"allOf": [{"$ref": "#/definitions/Level"}], "description": "How loud"},
        note={"type": "string", "nullable": True},
    )
    | {"$schema": DRAFT_7, "definitions": {"Level": strs(enum=["quiet", "loud"])}},
    {"level": "loud", "note": None},
    {"level": "quiet", "note": "x"},
    judge=obj("level", level=strs(enum=["quiet", "loud"]), note={"type": ["string", "null"]}),
)
case(
    "schemars untagged",
    obj("id", id={"anyOf": [{"type": "integer", "format": "int64"}, STR]}),
    {"id": 3},
    {"id": "x"},
)
case(
    "schemars externally tagged",
    obj(
        "cmd",
        cmd={
            "oneOf": [
                closed("Run", Run=closed("argv", argv=many(STR))),
                closed("Stop", Stop={"type": "null"}),
            ]
        },
    ),
    {"cmd": {"Stop": None}},
    {"cmd": {"Run": {"argv": ["ls"]}}},
)
case(
    "typebox record",
    obj(
        "headers",
        headers={"type": "object", "patternProperties": {"^(.*)$": STR}},
        method={"anyOf": [{"const": "GET", "type": "string"}, {"const": "POST", "type": "string"}]},
    ),
    {"headers": {"A": "b"}, "method": "GET"},
)
case(
    "typebox optional",
    closed(
        "a", a={"minimum": 1, "type": "integer"}, b={"type": "array", "items": {"type": "string"}}
    ),
    {"a": 1, "b": ["x"]},
)
case(
    "invopop",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/args",
        "$ref": "#/$defs/Args",
        "$defs": {
            "Args": closed(
                "name", name=STR, labels={"patternProperties": {".*": STR}, "type": "object"}
            )
        },
    },
    {"name": "a", "labels": {"x": "y"}},
)
case(
    "patterns of keys",
    obj(
        "env",
        env={
            "type": "object",
            "patternProperties": {"^[A-Z_]+$": STR},
            "additionalProperties": False,
        },
    ),
    {"env": {"PATH": "/bin"}},
)
case(
    "patterns of keys, open",
    obj(
        "env kind",
        env={"type": "object", "patternProperties": {"^x-": INT}},
        kind=strs(enum=["a", "b"]),
    ),
    {"env": {"x-a": 1, "b": "c"}, "kind": "a"},
    relaxed="#/properties/env/patternProperties",
)
case(
    "typescript generator",
    {
        "$ref": "#/definitions/Options",
        "$schema": DRAFT_7,
        "definitions": {
            "Options": closed(
                "target",
                target={"enum": ["es5", "esnext"], "type": "string"},
                lib={"items": STR, "type": "array"},
                paths={"additionalProperties": {"items": STR, "type": "array"}, "type": "object"},
            )
        },
    },
    {"target": "es5", "paths": {"a": ["b"]}},
)
case(
    "vocabulary of 2019",
    obj("card", card=STR, address=STR)
    | {"dependentRequired": {"address": ["card"]}, "unevaluatedProperties": False},
    {"card": "x", "address": "y"},
    relaxed="#/dependentRequired #/unevaluatedProperties",
)
case(
    "contains",
    obj("tags", tags=many(STR, contains={"const": "x"}, minContains=1)),
    {"tags": ["a", "x"]},
    relaxed="#/properties/tags/contains #/properties/tags/minContains",
)
case(
    "required as a flag",
    {
        "type": "object",
        "properties": {"a": {"type": "string", "required": True}, "b": INT},
        "required": ["b"],
    },
    {"a": "x", "b": 1},
    relaxed="#/properties/a/required",
    judge={
        "type": "object",
        "properties": {"a": {"type": "string", "required": []}, "b": INT},
        "required": ["b"],
    },
)
case(
    "an anchor",
    obj("a", a={"$ref": "#thing"}, b=strs(enum=["x"]))
    | {"$defs": {"thing": {"$anchor": "thing", "type": "string"}}},
    {"a": "x", "b": "x"},
    relaxed="#/properties/a/$ref",
)
case(
    "a reference to the network",
    obj(
        "kind",
        kind=strs(enum=["Pod", "Job"]),
        spec={"$ref": "https://kubernetesjsonschema.dev/v1.18/pod.json"},
    ),
    {"kind": "Pod", "spec": {"any": 1}},
    relaxed="#/properties/spec/$ref",
    judge=obj("kind", kind=strs(enum=["Pod", "Job"]), spec={"$ref": "#/$defs/pod"})
    | {"$defs": {"pod": {}}},
)

# ---- OpenAPI converted ----

case(
    "openapi nullable",
    obj(
        "name",
        name=STR,
        parent={"type": "integer", "format": "int64", "nullable": True},
        color={"type": "string", "enum": ["red", "blue"], "nullable": True},
    ),
    {"name": "a", "parent": None, "color": None},
    {"name": "a", "parent": 1, "color": "red"},
    judge=obj(
        "name",
        name=STR,
        parent={"type": ["integer", "null"]},
        color={"enum": ["red", "blue", None]},
    ),
)
case(
    "openapi nullable reference",
    obj("pet", pet={"allOf": [{"$ref": "#/components/schemas/Pet"}], "nullable": True})
    | {"components": {"schemas": {"Pet": obj("id", id=INT)}}},
    {"pet": None},
    {"pet": {"id": 1}},
    judge=obj("pet", pet={"anyOf": [obj("id", id=INT), {"type": "null"}]}),
)
case(
    "openapi exclusive bounds",
    obj(
        "ratio",
        ratio={
            "type": "number",
            "minimum": 0,
            "exclusiveMinimum": True,
            "maximum": 1,
            "exclusiveMaximum": False,
        },
    )
    | {"$schema": "http://json-schema.org/draft-04/schema#"},
    {"ratio": 0.5},
    {"ratio": 1},
)
case(
    "openapi nulls",
    {
        "type": "object",
        "properties": {
            "a": {
                "type": "string",
                "format": None,
                "enum": None,
                "pattern": None,
                "description": None,
            },
            "b": {"type": "array", "items": None},
        },
        "required": None,
        "additionalProperties": None,
    },
    {},
    {"a": "x", "b": [1]},
    judge=obj("", a=STR, b={"type": "array"}),
)
case(
    "openapi inheritance",
    {
        "type": "object",
        "allOf": [{"$ref": "#/$defs/Base"}, obj("name", name=STR)],
        "$defs": {"Base": obj("id", id=INT)},
    },
    {"id": 1, "name": "x"},
)
case(
    "openapi search",
    obj(
        "",
        q=STR,
        limit={"type": "integer", "format": "int32", "minimum": 1, "maximum": 100, "example": 10},
        sort=many(strs(enum=["created", "-created"])),
        xml={"type": "object", "xml": {"name": "x"}},
    ),
    {},
    {"q": "a", "limit": 100, "sort": ["-created"]},
)
case(
    "openapi upload",
    obj(
        "file",
        file=strs(format="binary"),
        checksum=strs(format="byte"),
        size={"type": "integer", "format": "int64", "readOnly": True},
    ),
    {"file": "x", "size": 3},
    relaxed="#/properties/file/format #/properties/checksum/format",
)
case(
    "openapi one of required",
    obj("", id=INT, email=STR, reason=strs(enum=["spam", "abuse"]))
    | {"oneOf": [{"required": ["id"]}, {"required": ["email"]}]},
    {"id": 1},
    {"email": "x", "reason": "spam"},
    relaxed="#/oneOf",
)
case(
    "openapi at least one",
    obj("id", id=INT, name=STR, color=strs(enum=["red"])) | {"minProperties": 2},
    {"id": 1, "name": "x"},
    {"id": 1, "other": 2},
    relaxed="#/minProperties",
)
case(
    "kubernetes",
    obj(
        "kind metadata",
        kind=strs(enum=["Pod", "Service"]),
        metadata=obj(
            "name",
            name=strs(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", maxLength=63),
            labels={"type": "object", "additionalProperties": STR},
        ),
        port={"x-kubernetes-int-or-string": True, "anyOf": [INT, STR]},
    ),
    {"kind": "Pod", "metadata": {"name": "a-b", "labels": {"app": "x"}}, "port": "http"},
)
case(
    "stripe",
    obj(
        "amount currency",
        amount={"type": "integer", "minimum": 1},
        currency=strs(pattern="^[a-z]{3}$"),
        metadata={"anyOf": [{"type": "object", "additionalProperties": STR}, strs(enum=[""])]},
        expand=many(strs(maxLength=5000)),
    ),
    {"amount": 5, "currency": "eur", "metadata": ""},
)
case(
    "jira",
    obj(
        "fields",
        fields=obj(
            "summary issuetype",
            summary=strs(maxLength=255),
            issuetype=obj("name", name=strs(enum=["Bug", "Task"])),
            labels=many(strs(pattern=r"^\S+$")),
        ),
    ),
    {"fields": {"summary": "x", "issuetype": {"name": "Bug"}, "labels": ["a-b"]}},
)
case(
    "unknown type",
    obj("a", a={"type": "any"}, b={"type": "int"}, c=strs(enum=["x"])),
    {"a": 1, "c": "x"},
    relaxed="#/properties/a/type #/properties/b/type",
    judge=obj("a", a={"type": list(ANY)}, b={"type": list(ANY)}, c=strs(enum=["x"])),
)

# ---- agents' own tools ----

case(
    "agent read",
    zod(
        "file_path",
        file_path=STR,
        offset={"type": "integer", "minimum": 0, "maximum": SAFE},
        limit={"type": "integer", "exclusiveMinimum": 0, "maximum": SAFE},
    ),
    {"file_path": "/a", "limit": 10},
)
case(
    "agent edit",
    zod(
        "file_path old_string new_string",
        file_path=STR,
        old_string=STR,
        new_string=STR,
        replace_all={"type": "boolean", "default": False},
    ),
    {"file_path": "/a", "old_string": "a", "new_string": "b"},
)
case(
    "agent bash",
    zod(
        "command",
        command=STR,
        timeout={"type": "number", "maximum": 600000},
        description=STR,
        run_in_background=FLAG,
    ),
    {"command": "ls | wc -l", "timeout": 1000},
)
case(
    "agent grep",
    zod(
        "pattern",
        pattern=STR,
        path=STR,
        glob=STR,
        output_mode=strs(enum=["content", "files_with_matches", "count"]),
        **{"-B": NUM, "-i": FLAG},
    ),
    {"pattern": "a.*b", "output_mode": "count", "-B": 2, "-i": True},
)
case(
    "agent todo",
    zod(
        "todos",
        todos=many(
            closed(
                "content status activeForm",
                content=strs(minLength=1),
                status=strs(enum=["pending", "in_progress", "completed"]),
                activeForm=strs(minLength=1),
            )
        ),
    ),
    {"todos": [{"content": "a", "status": "pending", "activeForm": "b"}]},
)
case(
    "agent web fetch",
    zod("url prompt", url=strs(format="uri"), prompt=STR),
    {"url": "https://example.com", "prompt": "x"},
)
case(
    "agent web search",
    zod("query", query=strs(minLength=2), allowed_domains=many(STR), blocked_domains=many(STR))
    | {"not": {"required": ["allowed_domains", "blocked_domains"]}},
    {"query": "ab"},
    relaxed="#/not",
)
case(
    "codex exec_command",
    closed("cmd", cmd=STR, workdir=STR, max_output_tokens=NUM, yield_time_ms=NUM, login=FLAG),
    {"cmd": "ls", "login": True},
)
case(
    "codex request_user_input",
    closed(
        "questions",
        questions=many(
            closed(
                "id header question options",
                id=STR,
                header=STR,
                question=STR,
                options=many(closed("label description", label=STR, description=STR)),
            )
        ),
    ),
    {
        "questions": [
            {
                "id": "a",
                "header": "b",
                "question": "c?",
                "options": [{"label": "d", "description": "e"}],
            }
        ]
    },
)
case(
    "sequential thinking",
    obj(
        "thought nextThoughtNeeded thoughtNumber totalThoughts",
        thought=STR,
        nextThoughtNeeded=FLAG,
        thoughtNumber={"type": "integer", "minimum": 1},
        totalThoughts={"type": "integer", "minimum": 1},
        isRevision=FLAG,
    ),
    {"thought": "x", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 2},
)
case(
    "memory create_entities",
    obj(
        "entities",
        entities=many(
            obj("name entityType observations", name=STR, entityType=STR, observations=many(STR))
        ),
    ),
    {"entities": [{"name": "a", "entityType": "b", "observations": []}]},
)
case(
    "home assistant",
    obj(
        "",
        name=STR,
        area=STR,
        domain=many(strs(enum=["light", "switch"])),
        brightness={"type": "integer", "minimum": 0, "maximum": 100},
    )
    | {"anyOf": [{"required": ["name"]}, {"required": ["area"]}]},
    {"name": "lamp", "brightness": 50},
    {"area": "kitchen", "domain": ["light"]},
)
case(
    "calendar",
    obj(
        "summary start end",
        summary=STR,
        start=obj("", date=strs(format="date"), dateTime=strs(format="date-time"), timeZone=STR),
        end=obj("", date=strs(format="date"), dateTime=strs(format="date-time")),
        attendees=many(obj("email", email=strs(format="email"))),
        recurrence=many(strs(pattern="^RRULE:")),
    ),
    {
        "summary": "x",
        "start": {"date": "2024-01-02"},
        "end": {"date": "2024-01-03"},
        "attendees": [{"email": "a@b.co"}],
    },
)
case(
    "maps",
    obj(
        "origins mode",
        origins=many(STR),
        mode=strs(enum=["driving", "walking"]),
        center=obj(
            "lat lng",
            lat={"type": "number", "minimum": -90, "maximum": 90},
            lng={"type": "number", "minimum": -180, "maximum": 180},
        ),
    ),
    {"origins": ["a"], "mode": "walking", "center": {"lat": 45.5, "lng": -120}},
)
case(
    "weather",
    obj(
        "latitude longitude",
        latitude={"type": "number"},
        longitude={"type": "number"},
        days={"type": "integer", "minimum": 1, "maximum": 16, "default": 7},
    ),
    {"latitude": 1.5, "longitude": -2},
)
case(
    "linear",
    closed(
        "title team",
        title=STR,
        team=STR,
        priority={"type": "number", "enum": [0, 1, 2, 3, 4]},
        dueDate=strs(format="date"),
        labels=many(STR),
    ),
    {"title": "a", "team": "b", "priority": 3},
)
case(
    "sentry",
    zod(
        "organizationSlug",
        organizationSlug=strs(pattern="^[a-z0-9_-]+$"),
        regionUrl=maybe(strs(format="uri")),
        query=STR,
    ),
    {"organizationSlug": "acme", "regionUrl": None},
)
case("neuro", obj("job", job=obj("key", key=strs(pattern=r"\S"))), {"job": {"key": "a"}})
case(
    "firecrawl",
    closed(
        "url",
        url=strs(format="uri"),
        formats=many(
            {
                "anyOf": [
                    strs(enum=["markdown", "html"]),
                    closed("type prompt", type={"const": "json"}, prompt=strs(maxLength=10000)),
                ]
            },
            maxItems=100,
        ),
        webhook=obj("url", url=strs(format="uri-template")),
    ),
    {"url": "https://a.b", "formats": ["html", {"type": "json", "prompt": "x"}]},
    relaxed="#/properties/webhook/properties/url/format",
)
