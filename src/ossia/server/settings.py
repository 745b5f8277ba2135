"""Everything that can be told to a server. Plain data; `ossia serve` makes it from its options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ossia.engine.request import SamplingParams
from ossia.harmony.messages import EffortName

DAY = 86_400.0  # seconds
Priority = Literal["chat", "batch"]


@dataclass(frozen=True)
class Limits:
    """Of one API key, or of everybody together if there are no keys. None: no limit. `priority`
    batch: behind everybody's work that is not.
    """

    concurrent: int | None = None  # samples being answered: n counts as n
    tokens_per_minute: int | None = None  # prompt and answer
    tools: frozenset[str] | None = None  # of ours that may be used; None: all that there are
    tool_seconds_per_minute: int | None = None
    pages_per_minute: int | None = None  # that the browser finds or opens
    containers: int | None = None  # at the same time
    tokens_per_day: int | None = None  # prompt and answer, from midnight to midnight UTC
    priority: Priority = "chat"
    admin: bool = False  # may see what everybody has used, and delete what is anybody's
    metrics: bool = False  # may see everybody's counts at /metrics


@dataclass(frozen=True)
class Retention:
    """How long what is kept stays, in seconds after it was last written. `containers`: after they
    were last used. None: as `store_ttl`, or the rules of files and containers, say.
    """

    responses: float | None = None
    conversations: float | None = None
    files: float | None = None
    containers: float | None = None
    usage: float = 400 * DAY


@dataclass(frozen=True)
class ApiKey:
    """`digest`: SHA-256 of the secret, in hex; the secret itself is not kept."""

    name: str
    digest: str
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Settings:
    """`keys` empty: anybody may ask. `store_path` None: responses are kept in memory."""

    model_name: str = "gpt-oss"
    strict_model_names: bool = False  # refuse requests that name another model
    sampling: SamplingParams = field(default_factory=SamplingParams)  # where a request says nothing
    effort: EffortName = "medium"
    effort_in_system: bool = True  # a line `Reasoning: high` in a system message sets it
    # hold every sample to the grammar of Harmony, of the tools and of the format
    constrained: bool = True
    # samples after one that called an unknown tool, or with arguments that are not JSON
    retries: int = 2
    tool_rounds: int = 100  # samples of one answer that call tools of the server's own
    tool_seconds: float = 300.0  # that one call of them may take; each has a shorter limit, too
    citations: Literal["links", "marks"] = "links"  # what the model's marks become
    keys: tuple[ApiKey, ...] = ()
    limits: Limits = field(default_factory=Limits)  # for requests without a key
    max_queue: int = 512  # samples being answered or waiting; one more is told to come back (429)
    max_body: int = 32 << 20  # bytes of a request
    header_timeout: float = 15.0  # seconds that a request's headers may take
    body_timeout: float = 60.0  # seconds that a request's body may take
    max_connections: int = 512  # of one address; 0: any number
    # addresses of proxies, whose word for a client's address is taken; "*": everybody's
    trusted_proxies: tuple[str, ...] = ()
    # a header by which these proxies say who has logged in there, and what such users may use
    user_header: str | None = None
    users: Limits = field(default_factory=Limits)
    local_limits: bool = False  # each server holds limits by itself, also with a shared store
    keepalive: float = 15.0  # seconds without an event after which a stream says that it is alive
    drain: float = 30.0  # seconds that running answers have when the server is asked to stop
    store_path: Path | None = None
    store_url: str | None = None  # of a database that several servers share; then no path
    home: str = ""  # the URL by which those servers reach this one
    store_ttl: float = 30 * 24 * 3600.0  # seconds
    store_bytes: int = 128 << 20
    retention: Retention = field(default_factory=Retention)
    secret: bytes | None = None  # of encrypted reasoning; None: a new one at every start
    # what is asked, besides the line that every request gets in the log
    log_prompts: bool = False
    # of pages that may ask from a browser, such as "https://example.org"; "*": all
    cors_origins: tuple[str, ...] = ()
    # names that requests may call this server by; empty: any. Without keys, a page that a browser
    # shows could otherwise give its own name this machine's address, and read what is here
    hosts: tuple[str, ...] = ()
