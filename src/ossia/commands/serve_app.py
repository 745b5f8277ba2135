"""`ossia serve` at work: from its options to the server's `Settings`, from a model or a script to
an engine, and the first words.

What can be wrong with the options is said before a model is loaded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import secrets
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ossia import __version__, hub
from ossia.commands.serve import Options
from ossia.engine.request import SamplingParams
from ossia.errors import RequestError
from ossia.server import ScriptedEngine, Settings, create_app, logs, run, tracing
from ossia.server.access import merged, parse_keys, read_keys
from ossia.server.settings import ApiKey
from ossia.server.tools import Tools
from ossia.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ossia.llm import LLM

KEYS = "OSSIA_API_KEYS"
FEWEST_SECRET_BYTES = 16
WARM_UP_TOKENS = 8


def serve(options: Options) -> None:
    """Until it is stopped. Raises `KeyboardInterrupt` if that was by Ctrl-C."""
    settings = settings_of(options)
    logs.set_up()
    tracing.set_up()
    host = options.access.host
    listening = run.listen(host, options.access.port)  # a taken port is said before loading
    with listening:
        app, about = _made(options, settings)
        url = _url(host, listening.getsockname()[1])
        stopped_by = run.serve(app, listening, lambda: _greet(settings, url, about))
    if stopped_by is signal.SIGINT:
        raise KeyboardInterrupt


def _made(options: Options, settings: Settings) -> tuple[FastAPI, str]:
    """The app of a model or of a script, and a line about what it serves."""
    script = options.answers.script
    if script is not None:
        tokenizer = _tokenizer(options.model)
        samples = read_script(Path(script), tokenizer)
        engine = ScriptedEngine(samples, delay=options.answers.script_delay)
        about = f"what {script} says, token by token, with the tokenizer of {options.model}"
        return create_app(engine, tokenizer, settings), about
    llm = options.computing.load_model(options.model)
    app = _app(llm, settings)
    if options.computing.warm_up:
        _warm_up(llm, app)
    return app, _about(llm)


def _app(llm: LLM, settings: Settings) -> FastAPI:
    sampling = settings.sampling if settings.sampling != SamplingParams() else llm.sampling
    return create_app(llm.engine, llm.tokenizer, replace(settings, sampling=sampling))


def _warm_up(llm: LLM, app: FastAPI) -> None:
    """Answer something short, so that the first request finds weights read, kernels chosen and the
    grammar made.
    """
    for _ in llm.generate(llm.tokenizer.encode("Hello"), max_tokens=WARM_UP_TOKENS):
        pass
    asyncio.run(app.state.service.grammar(Tools()))


# ---- options -------------------------------------------------------------------------------------


def settings_of(options: Options) -> Settings:
    """Raises `RequestError` for what makes no sense."""
    access, answers, limits, kept = options.access, options.answers, options.limits, options.kept
    keys = _keys(access.api_key_file, os.environ.get(KEYS, ""))
    if not keys and not access.insecure and not is_loopback(access.host):
        raise RequestError(
            f"--host {access.host} lets other machines in, and there is no API key: give "
            f"--api-key-file or {KEYS}, or --insecure if whoever can connect may ask"
        )
    return Settings(
        model_name=answers.model_name or _name(options.model),
        strict_model_names=answers.strict_model_names,
        effort=answers.default_effort,
        constrained=not answers.unconstrained,
        keys=keys,
        max_queue=limits.max_queue,
        max_body=limits.max_body,
        drain=limits.drain,
        store_path=None if kept.store is None else Path(kept.store),
        store_ttl=kept.store_ttl,
        store_bytes=kept.store_bytes,
        secret=None if kept.secret_file is None else read_secret(Path(kept.secret_file)),
        log_prompts=kept.log_prompts,
        cors_origins=_origins(access.cors_origin),
        hosts=() if keys or access.insecure else _own_names(access.host),
    )


def _own_names(host: str) -> tuple[str, ...]:
    """The names that this machine is reached by when only it is let in."""
    return ("localhost", "127.0.0.1", "::1", host.strip("[]").lower())


def _keys(file: str | None, environment: str) -> tuple[ApiKey, ...]:
    keys: tuple[ApiKey, ...] = ()
    if file is not None:
        keys += read_keys(Path(file))
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


def read_secret(path: Path) -> bytes:
    """Of a file, which is made with a new secret if it is not there. Raises `RequestError`."""
    try:
        if not path.exists():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_hex(32).encode() + b"\n")
        secret = path.read_bytes().strip()
    except OSError as error:
        raise RequestError(f"--secret-file {path}: {error.strerror}") from error
    if len(secret) < FEWEST_SECRET_BYTES:
        raise RequestError(
            f"--secret-file {path}: a secret has at least {FEWEST_SECRET_BYTES} bytes"
        )
    return secret


# ---- scripts -------------------------------------------------------------------------------------


def read_script(path: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """What a model is to say, a sample a line: {"text": "<|channel|>final<|message|>Hi<|return|>"}
    or {"ids": [...]}. In a text the names of special tokens are those tokens. Raises `RequestError`
    with the number of the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise RequestError(f"--script {path}: {reason}") from error
    samples = [
        _sample(line, f"--script {path}, line {n}", tokenizer)
        for n, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not samples:
        raise RequestError(f"--script {path} says nothing")
    return samples


def _sample(line: str, place: str, tokenizer: Tokenizer) -> list[int]:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise RequestError(f"{place} is not valid JSON: {error}") from error
    match said:
        case {"text": str(text)} if len(said) == 1:
            ids = tokenizer.encode_with_specials(text)
        case {"ids": list(ids)} if len(said) == 1:
            pass
        case _:
            ids = []
    if not ids or not all(type(id) is int and id >= 0 for id in ids):
        raise RequestError(
            f'{place}: expected {{"text": "..."}} or {{"ids": [1, 2, ...]}}, not empty'
        )
    return ids


def _tokenizer(model: str) -> Tokenizer:
    """The tokenizer of a model that is not loaded; the published models need not be downloaded."""
    if model in (*hub.HUB_IDS, *hub.HUB_IDS.values()) and not Path(model).exists():
        return Tokenizer.o200k_harmony()
    folder = hub.find(model)
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_pretrained(folder)
    from ossia import checkpoint
    from ossia.llm import find_tokenizer

    found = find_tokenizer(folder, checkpoint.open_checkpoint(folder).config)
    if found is None:
        raise RequestError(f"{model} has no tokenizer")
    return found


# ---- first words ---------------------------------------------------------------------------------


def _name(model: str) -> str:
    """What clients call it: the folder's name, without a file's ending."""
    path = Path(model).expanduser()
    if not path.exists():
        return model.rsplit("/", 1)[-1]
    return path.resolve().name.removesuffix(".gguf")


def _about(llm: LLM) -> str:
    precision, config = llm.serving.precision, llm.config
    kernels = "compiled kernels"
    if llm.serving.why_not is not None:
        kernels = f"torch's kernels, because of its {llm.serving.why_not}"
    return (
        f"dense {precision.dense}, activations {precision.activations}, "
        f"keys and values {precision.kv}; context {config.max_context_length:,} tokens, "
        f"room for {llm.engine.capacity:,}; {kernels}"
    )


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greet(settings: Settings, url: str, about: str) -> None:
    """To stdout, the address in the first line, for programs that wait for it."""
    name = settings.model_name
    keys = ", ".join(sorted({key.name for key in settings.keys}))
    header = " -H 'Authorization: Bearer KEY'" if keys else ""
    body = json.dumps({"model": name, "input": "What is 37 + 48?"})
    request = f"-H 'Content-Type: application/json'{header} -d '{body}'"
    lines = [
        f"ossia {__version__} serves {name} at {url}",
        f"  model      {about}",
        f"  keys       {keys or 'none needed: whoever can connect may ask'}",
        f"  page       {url}/",
        f"  API        base URL {url}/v1 for OpenAI's clients, {url} for Anthropic's",
        f"  try        curl {url}/v1/responses {request}",
        "Ctrl-C stops it, once running answers have ended.",
    ]
    print("\n".join(lines), flush=True)
    host = url.split("://")[1].rsplit(":", 1)[0]
    if not keys and not is_loopback(host):
        print(
            "ossia: anybody who reaches this machine may ask: there is no API key", file=sys.stderr
        )
