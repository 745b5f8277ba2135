"""`ossia serve`: from its options to a server that runs, and the first words.

The server is imported when it is started: it takes longer to load than this help to print.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ossia import __version__
from ossia.commands.hosted import Made, make
from ossia.commands.options import Command
from ossia.commands.server.options import Options
from ossia.commands.server.settings import at_home, is_loopback, settings_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ossia.llm import LLM
    from ossia.server.settings import Settings

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
    """So that the first request finds weights read, kernels chosen and compiled, and the grammar
    made.
    """
    from ossia.serving import warm_up
    from ossia.tools.toolbox import Toolbox

    warm_up(llm.engine, llm.model.device.type, llm.tokenizer.encode("Hello"))
    asyncio.run(app.state.service.grammar(Toolbox()))


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
