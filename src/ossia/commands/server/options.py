"""What `ossia serve` takes. Knows words of the command line; nothing of the server."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

from ossia.commands.hosted import Hosted
from ossia.commands.options import (
    Computing,
    EffortWord,
    Port,
    Positive,
    Seconds,
    Size,
    model,
    option,
    seconds,
)


def kind_and_time(text: str) -> tuple[str, float]:
    """Of `--retention`: what is kept, and for how many seconds."""
    from ossia.server.settings import Retention

    kind, _, time = text.partition("=")
    kinds = [each.name for each in fields(Retention)]
    if kind not in kinds:
        raise ArgumentTypeError(f"expected KIND=TIME, KIND being {', '.join(kinds)}: {text!r}")
    kept = seconds(time)
    if not kept:
        raise ArgumentTypeError(f"the time must be more than 0: {text!r}")
    return kind, kept


KindTime = Annotated[tuple[str, float], kind_and_time]


@dataclass(frozen=True)
class Access:
    """Where the server listens, and whom it answers."""

    TITLE: ClassVar[str] = "who may ask"
    ABOUT: ClassVar[str | None] = None

    host: str = option("127.0.0.1", "address to listen on; other than loopback only with a key")
    port: Port = option(8000, "0: any free one", "N")
    api_key_file: str | None = option(None, "keys and their limits, see below", "FILE")
    insecure: bool = option(False, "let other machines, and pages by other names, in without a key")
    trusted_proxy: tuple[str, ...] = option(
        (),
        "address or network of a proxy whose X-Forwarded-For is believed; repeatable",
        "ADDRESS",
        shown="none",
    )
    user_header: str | None = option(
        None,
        "header by which a --trusted-proxy says who has logged in there, such as X-Forwarded-User",
        "NAME",
        shown="keys only",
    )
    cors_origin: tuple[str, ...] = option(
        (),
        "pages that may ask from a browser, such as https://example.org; repeatable",
        "ORIGIN",
        shown="none",
    )


@dataclass(frozen=True)
class Answers:
    """What a request is answered where it leaves a choice."""

    TITLE: ClassVar[str] = "answers"
    ABOUT: ClassVar[str | None] = None

    model_name: str | None = option(None, "what clients call it", "NAME", shown="after MODEL")
    strict_model_names: bool = option(False, "refuse requests that name another model")
    default_effort: EffortWord = option("medium", "how much to reason where a request says nothing")
    no_effort_in_system: bool = option(
        False, "a line 'Reasoning: high' in a system message does not set the effort"
    )
    unconstrained: bool = option(
        False,
        "do not hold answers to the grammar of Harmony and of their tools; schemas of a request "
        "still hold",
    )
    script: str | None = option(None, "say what FILE says, see below; no model is loaded", "FILE")
    script_delay: Seconds = option(0.0, "of --script: what a step takes", "TIME", shown="0")


@dataclass(frozen=True)
class Limits:
    """How much is accepted, and how long it may take."""

    TITLE: ClassVar[str] = "limits"
    ABOUT: ClassVar[str | None] = (
        "SIZE: such as 32MB or 1GiB. TIME: such as 500ms, 30s, 12h or 30d."
    )

    max_queue: Positive = option(512, "samples answered or waiting; one more gets a 429", "N")
    local_limits: bool = option(
        False, "keys' limits hold at this server alone, not for all of a shared --store together"
    )
    max_connections: int = option(
        512, "of one address; 0: any number, as with --trusted-proxy", "N"
    )
    max_body: Size = option(
        32 << 20, "of a request; a larger one gets a 413", "SIZE", shown="32MiB"
    )
    header_timeout: Seconds = option(15.0, "for a request's headers", "TIME", shown="15s")
    body_timeout: Seconds = option(
        60.0, "for a request's body; a slower one gets a 408", "TIME", shown="60s"
    )
    drain: Seconds = option(
        30.0, "that running answers have when the server is stopped", "TIME", shown="30s"
    )


@dataclass(frozen=True)
class Kept:
    """What outlasts a request."""

    TITLE: ClassVar[str] = "what is kept"
    ABOUT: ClassVar[str | None] = None

    store: str | None = option(
        None,
        "a file for responses and conversations, or postgresql://..., which several servers share",
        "FILE|URL",
        shown="in memory",
    )
    home: str | None = option(
        None,
        "of servers that share a store: the URL by which the others reach this one",
        "URL",
        shown="where it listens",
    )
    store_ttl: Seconds = option(30 * 86400.0, "", "TIME", shown="30d")
    store_bytes: Size | None = option(None, "", "SIZE", shown="1GiB in a file, 16MiB in memory")
    secret_file: str | None = option(
        None,
        "seals reasoning that clients keep; made if it is not there",
        "FILE",
        shown="a new secret every time",
    )
    retention: tuple[KindTime, ...] = option(
        (),
        "for responses, conversations, files, containers (after their last use) or usage; "
        "repeatable",
        "KIND=TIME",
        shown="files=30d, containers=20m, usage=400d, others as --store-ttl",
    )
    log_prompts: bool = option(False, "write what is asked to the log, too")


@dataclass(frozen=True)
class ServeComputing(Computing):
    """As for every command that loads a model, and what is computed before the first request."""

    warm_up: bool = option(False, "compute a short answer before the first request")


@dataclass(frozen=True)
class Options:
    """What `ossia serve` takes."""

    model: str = model()
    access: Access = Access()
    answers: Answers = Answers()
    limits: Limits = Limits()
    hosted: Hosted = Hosted()
    kept: Kept = Kept()
    computing: ServeComputing = ServeComputing()
