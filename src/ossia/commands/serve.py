"""`ossia serve`: its options, how they become the server's settings, and the first words.

What can be wrong with the options is said before a model is loaded. The server is imported when it
is started: it takes longer to load than this help to print.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import secrets
import signal
import socket
import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from ossia import __version__
from ossia.commands.hosted import Hosted, Made, make
from ossia.commands.hosted import check as check_tools
from ossia.commands.options import (
    Command,
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
from ossia.errors import RequestError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ossia.llm import LLM
    from ossia.server.settings import ApiKey, Settings
    from ossia.server.settings import Limits as KeyLimits

KEYS = "OSSIA_API_KEYS"
WARM_UP_TOKENS = 8
STRANGERS_TOOLS = frozenset({"browser"})  # for other machines, without a key
FILE = 1 << 30  # bytes of responses and conversations that are kept
MEMORY = 16 << 20  # where there is no file for them: small beside any model
EPILOG = """\
OpenAI's clients are given the base URL http://127.0.0.1:8000/v1, Anthropic's http://127.0.0.1:8000;
a browser finds a page to chat on. Which model a request names does not matter, unless
--strict-model-names.

keys:
  A line of the key file is: NAME KEY [concurrent=N] [tokens-per-minute=N] [tokens-per-day=N]
  [tools=NAME,...] [tool-seconds-per-minute=N] [pages-per-minute=N] [containers=N]
  [priority=chat|batch] [admin=yes] [metrics=yes]
  KEY is the secret itself, or sha256: and its digest in hex. OSSIA_API_KEYS holds such lines too,
  or several between commas. Without keys only this machine is let in, unless --insecure. Without
  `tools=` a key may use what --tools and --mcp name; other machines without a key only the browser.
  A key with priority=batch waits for all others; one with admin=yes may ask GET /v1/usage and
  DELETE /v1/users/NAME; one with metrics=yes, or admin=yes, sees everybody's counts at /metrics,
  others their own.
  `tools=` takes browser (all sources) and browser:SOURCE, python, shell, mcp (all servers, and any
  with --mcp-any) and mcp:LABEL. A source is a --corpus by its name, searx, exa, you or none.

end:
  SIGTERM or Ctrl-C: new requests are refused, /ready says 503, running answers have --drain
  seconds. A second signal ends at once.

scripts:
  Each line is what a model says at one go; the last is repeated. Names of special tokens are those
  tokens. MODEL gives the tokenizer.
  {"text": "<|channel|>final<|message|>Hi<|return|>"} or {"ids": [1, 2, 3]}

examples:
  ossia serve                                       nano, the small model inside ossia
  ossia serve gpt-oss-20b --dense int8 --activations int8 --warm-up
  ossia serve gpt-oss-20b --host 0.0.0.0 --api-key-file keys.txt --store s.db --secret-file secret
  ossia serve gpt-oss-20b --tools python,browser --corpus notes/
  ossia serve gpt-oss-20b --tools browser --corpus notes=n/ --corpus law=l/ --search exa
  ossia serve gpt-oss-20b --mcp mcp.json            MCP servers' tools, for requests that name them
  ossia serve gpt-oss-20b --store postgresql://ossia@db/ossia --secret-file secret   one of several
  ossia serve nano --script answers.jsonl           to test a client

OTEL_EXPORTER_OTLP_ENDPOINT names who is sent spans; that takes pip install 'ossia[otel]'.
"""


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


def run(options: Options) -> None:
    """Until it is stopped. Raises `KeyboardInterrupt` if that was by Ctrl-C."""
    from ossia import heap
    from ossia.server import logs, tracing
    from ossia.server.run import listen
    from ossia.server.run import serve as serve_until_stopped

    heap.share()  # before there are threads
    settings = settings_of(options)
    logs.set_up()
    tracing.set_up()
    tools = make(options.hosted)
    host = options.access.host
    listening = listen(host, options.access.port)  # a taken port is said before loading
    with listening:
        url = _url(host, listening.getsockname()[1])
        settings = at_home(settings, options.kept.home or url)
        app, about = _made(options, settings, tools)
        stopped_by = serve_until_stopped(
            app, listening, lambda: _greet(settings, url, about, tools)
        )
    if stopped_by is signal.SIGINT:
        raise KeyboardInterrupt


def app_of(options: Options) -> FastAPI:
    """The same application, for programs that serve it in their own way, such as
    recipes/ray_serve.py.
    """
    # nobody else reaches it; with a name of its own it takes no other's answers for its own
    settings = replace(settings_of(options), home=f"http://{secrets.token_hex(8)}.invalid")
    return _made(options, settings, make(options.hosted))[0]


def _made(options: Options, settings: Settings, tools: Made) -> tuple[FastAPI, str]:
    """The app of a model or of a script, and a line about what it serves."""
    from ossia.commands.script import read_script, tokenizer_of
    from ossia.server import ScriptedEngine, create_app

    script = options.answers.script
    if script is not None:
        tokenizer = tokenizer_of(options.model)
        samples = read_script(Path(script), tokenizer)
        engine = ScriptedEngine(samples, delay=options.answers.script_delay)
        about = f"what {script} says, token by token, with the tokenizer of {options.model}"
        made = create_app(
            engine,
            tokenizer,
            settings,
            builtin=tools.tools,
            containers=tools.containers,
            mcp=tools.mcp,
        )
        return made, about
    llm = options.computing.load_model(options.model)
    app = _app(llm, settings, tools)
    if options.computing.warm_up:
        _warm_up(llm, app)
    return app, _about(llm)


def _app(llm: LLM, settings: Settings, tools: Made) -> FastAPI:
    from ossia.checkpoint.mapped import changed_file
    from ossia.engine.request import SamplingParams
    from ossia.server import create_app

    sampling = settings.sampling if settings.sampling != SamplingParams() else llm.sampling
    settings = replace(settings, sampling=sampling)
    return create_app(
        llm.engine,
        llm.tokenizer,
        settings,
        builtin=tools.tools,
        containers=tools.containers,
        mcp=tools.mcp,
        changed=changed_file,
    )


def _warm_up(llm: LLM, app: FastAPI) -> None:
    """Answer something short, so that the first request finds weights read, kernels chosen and the
    grammar made; on a GPU also prompts, so that it finds the kernels for all of their tiles
    compiled.
    """
    from ossia.tools.toolbox import Toolbox

    hello = llm.tokenizer.encode("Hello")
    most = min(llm.engine.max_batch_tokens, llm.engine.longest // 2)
    for length in _warm_up_lengths(llm.model.device.type, most):
        prompt = (hello * length)[:length]
        for _ in llm.generate(prompt, max_tokens=WARM_UP_TOKENS):
            pass
    llm.engine.flush()
    asyncio.run(app.state.service.grammar(Toolbox()))


def _warm_up_lengths(device: str, most: int) -> list[int]:
    """Of prompts; `most` tokens are read in a step. Tiles of kernels go by tokens an expert and by
    queries of a sequence.
    """
    if device == "cpu":
        return [1]
    lengths = [1]
    while 4 * lengths[-1] < most:
        lengths.append(4 * lengths[-1])
    return [*lengths, most]


# ---- from options to settings --------------------------------------------------------------------


def _shared(kept: Kept) -> str | None:
    """The URL of a database that several servers share. Raises `RequestError`."""
    from ossia.server.store.opening import is_url

    if kept.store is None or not is_url(kept.store):
        if kept.home is not None:
            raise RequestError("--home is of servers that share a --store postgresql://...")
        return None
    if kept.secret_file is None:
        raise RequestError(
            "--store postgresql://... is shared: give every server the same --secret-file, by "
            "which they know each other"
        )
    if kept.home is not None and not re.fullmatch(r"https?://[^/\s]+", kept.home):
        raise RequestError(f"--home {kept.home}: expected something such as http://10.0.0.7:8000")
    return kept.store


def at_home(settings: Settings, url: str) -> Settings:
    """With the address by which others reach this server. Raises `OssiaError` if the store that
    they share cannot be used: that is said before a model is loaded.
    """
    from ossia.server.store.opening import checked

    if settings.store_url is None:
        return settings
    asyncio.run(checked(settings.store_url))
    name = socket.gethostname()
    anywhere = ("://0.0.0.0:", "://[::]:")  # of which nobody else knows where it is
    for each in anywhere:
        url = url.replace(each, f"://{name}:")
    return replace(settings, home=url)


def _store_bytes(kept: Kept) -> int:
    if kept.store_bytes is not None:
        return kept.store_bytes
    return MEMORY if kept.store is None else FILE


def settings_of(options: Options) -> Settings:
    """Raises `RequestError` for what makes no sense."""
    from ossia.server import Settings
    from ossia.server.sealing import read_secret
    from ossia.server.settings import Limits as KeyLimits
    from ossia.server.settings import Retention
    from ossia.server.store.opening import is_url

    access = options.access
    answers = options.answers
    limits = options.limits
    kept = options.kept
    has_users = access.user_header is not None
    keys = _keys(access.api_key_file, os.environ.get(KEYS, ""), has_users=has_users)
    if not (keys or has_users or access.insecure or is_loopback(access.host)):
        raise RequestError(
            f"--host {access.host} lets other machines in, and there is no API key: give "
            f"--api-key-file or {KEYS}, or --insecure if whoever can connect may ask"
        )
    _check_limits(limits)
    _check_users(access)
    check_tools(options.hosted, is_loopback=is_loopback(access.host))
    strangers = None if keys or has_users or is_loopback(access.host) else STRANGERS_TOOLS
    return Settings(
        model_name=answers.model_name or _name(options.model),
        strict_model_names=answers.strict_model_names,
        effort=answers.default_effort,
        effort_in_system=not answers.no_effort_in_system,
        constrained=not answers.unconstrained,
        keys=keys,
        limits=KeyLimits(tools=strangers),
        citations=options.hosted.citations,
        max_queue=limits.max_queue,
        max_body=limits.max_body,
        max_connections=limits.max_connections,
        header_timeout=limits.header_timeout,
        body_timeout=limits.body_timeout,
        trusted_proxies=_proxies(access.trusted_proxy),
        user_header=access.user_header,
        users=_users(access),
        local_limits=limits.local_limits,
        drain=limits.drain,
        store_path=None if kept.store is None or is_url(kept.store) else Path(kept.store),
        store_url=_shared(kept),
        store_ttl=kept.store_ttl,
        store_bytes=_store_bytes(kept),
        retention=Retention(**dict(kept.retention)),
        secret=None if kept.secret_file is None else read_secret(Path(kept.secret_file)),
        log_prompts=kept.log_prompts,
        cors_origins=_origins(access.cors_origin),
        hosts=() if keys or has_users or access.insecure else _own_names(access.host),
    )


def _check_limits(limits: Limits) -> None:
    if limits.max_connections < 0:
        raise RequestError(f"--max-connections must be 0 or more, found {limits.max_connections}")
    for name in ("header_timeout", "body_timeout"):
        if not getattr(limits, name):
            raise RequestError(f"--{name.replace('_', '-')} must be more than 0")


def _proxies(given: tuple[str, ...]) -> tuple[str, ...]:
    for address in given:
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            if address != "*":
                raise RequestError(
                    f"--trusted-proxy {address}: expected *, an address or a network such as "
                    "10.0.0.0/8"
                ) from error
    return given


def _check_users(access: Access) -> None:
    if access.user_header is None:
        return
    if not re.fullmatch("[A-Za-z0-9-]{1,80}", access.user_header):
        raise RequestError(f"--user-header {access.user_header}: that is no name of a header")
    if not access.trusted_proxy or "*" in access.trusted_proxy:
        raise RequestError(
            "--user-header lets in whom a proxy names: give the proxy's address with "
            "--trusted-proxy, and not *"
        )


def _users(access: Access) -> KeyLimits:
    """What each of a proxy's users may use."""
    from ossia.server.keys import read_users
    from ossia.server.settings import Limits

    file = access.api_key_file
    return Limits() if file is None else read_users(Path(file))


def _own_names(host: str) -> tuple[str, ...]:
    """The names that this machine is reached by when only it is let in."""
    return ("localhost", "127.0.0.1", "::1", host.strip("[]").lower())


def _keys(file: str | None, environment: str, *, has_users: bool) -> tuple[ApiKey, ...]:
    from ossia.server.keys import merged, parse_keys, read_keys

    keys: tuple[ApiKey, ...] = ()
    if file is not None:
        keys += read_keys(Path(file), has_users=has_users)
    if environment.strip():
        keys += parse_keys(re.split(r"[,\n]", environment), KEYS)
    return merged(keys, "the API keys")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _origins(given: tuple[str, ...]) -> tuple[str, ...]:
    for origin in given:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            raise RequestError(
                f"--cors-origin {origin}: expected * or something such as https://example.org"
            )
    return given


# ---- first words ---------------------------------------------------------------------------------


def _name(model: str) -> str:
    """What clients call it: the folder's name, without a file's ending."""
    path = Path(model).expanduser()
    if not path.exists():
        return model.rsplit("/", 1)[-1]
    return path.resolve().name.removesuffix(".gguf")


def _about(llm: LLM) -> str:
    from ossia.engine.runner import on_device

    precision, config = llm.serving.precision, llm.config
    kernels = "compiled kernels"
    if llm.serving.why_not is not None:
        kernels = f"torch's kernels, because of its {llm.serving.why_not}"
        if on_device(llm.model) is None:
            kernels = "a GPU's kernels"
    return (
        f"dense {precision.dense}, activations {precision.activations}, "
        f"keys and values {precision.kv}; context {config.max_context_length:,} tokens, "
        f"room for {llm.engine.capacity:,}; {kernels}"
    )


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _no_keys(settings: Settings) -> str:
    if settings.user_header is not None:
        proxies = ", ".join(settings.trusted_proxies)
        return f"none: {proxies} names who asks, in {settings.user_header}"
    return "none needed: whoever can connect may ask"


def _greet(settings: Settings, url: str, about: str, tools: Made) -> None:
    """To stdout, the address in the first line, for programs that wait for it."""
    name = settings.model_name
    keys = ", ".join(sorted({key.name for key in settings.keys}))
    header = " -H 'Authorization: Bearer KEY'" if keys else ""
    body = json.dumps({"model": name, "input": "What is 37 + 48?"})
    request = f"-H 'Content-Type: application/json'{header} -d '{body}'"
    lines = [
        f"ossia {__version__} serves {name} at {url}",
        f"  model      {about}",
        f"  keys       {keys or _no_keys(settings)}",
        *(f"  tool       {line}" for line in tools.about),
        f"  page       {url}/",
        f"  API        base URL {url}/v1 for OpenAI's clients, {url} for Anthropic's",
        f"  try        curl {url}/v1/responses {request}",
        "Ctrl-C stops it, once running answers have ended.",
    ]
    print("\n".join(lines), flush=True)
    host = url.split("://")[1].rsplit(":", 1)[0]
    if not keys and settings.user_header is None and not is_loopback(host):
        print(
            "ossia: anybody who reaches this machine may ask: there is no API key", file=sys.stderr
        )


COMMAND = Command(Options, run, EPILOG)
