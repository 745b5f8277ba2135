"""`ossia serve`: a model behind HTTP. Its options to `Settings`, a model or a script to an engine,
and the first words.

Knows the arguments as `commands/main.py` names them. What can be wrong with them is said before a
model is loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossia import __version__, hub
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


def serve(args: argparse.Namespace, load: Callable[[], LLM]) -> None:
    """Until it is stopped. Raises `KeyboardInterrupt` if that was by Ctrl-C."""
    settings = settings_of(args)
    logs.set_up()
    tracing.set_up()
    listening = run.listen(
        args.host, args.port
    )  # a port that is taken is said before minutes of loading
    with listening:
        if args.script is not None:
            tokenizer = _tokenizer(args.model)
            engine = ScriptedEngine(
                read_script(Path(args.script), tokenizer), delay=args.script_delay
            )
            app = create_app(engine, tokenizer, settings)
            about = f"what {args.script} says, token by token, with the tokenizer of {args.model}"
        else:
            llm = load()
            app, about = _app(llm, settings), _about(llm)
            if args.warm_up:
                _warm_up(llm, app)
        port = listening.getsockname()[1]
        stopped_by = run.serve(
            app, listening, lambda: _greet(settings, _url(args.host, port), about)
        )
    if stopped_by is signal.SIGINT:
        raise KeyboardInterrupt


def _app(llm: LLM, settings: Settings) -> FastAPI:
    sampling = settings.sampling if settings.sampling != SamplingParams() else llm.sampling
    return create_app(llm.engine, llm.tokenizer, replace(settings, sampling=sampling))


def _warm_up(llm: LLM, app: FastAPI) -> None:
    """One short answer, so that the first one that counts finds weights read, kernels chosen and
    the grammar made.
    """
    for _ in llm.generate(llm.tokenizer.encode("Hello"), max_tokens=WARM_UP_TOKENS):
        pass
    asyncio.run(app.state.service.grammar(Tools()))


# ---- options -------------------------------------------------------------------------------------


def settings_of(args: argparse.Namespace) -> Settings:
    """Raises `RequestError` for what makes no sense."""
    keys = _keys(args.api_key_file, os.environ.get(KEYS, ""))
    if not keys and not args.insecure and not is_loopback(args.host):
        raise RequestError(
            f"--host {args.host} lets other machines in, and there is no API key: give --api-key-file or {KEYS}, "
            "or --insecure if whoever can connect may ask"
        )
    return Settings(
        model_name=args.model_name or _name(args.model),
        strict_model_names=args.strict_model_names,
        effort=args.default_effort,
        constrained=not args.unconstrained,
        keys=keys,
        max_queue=args.max_queue,
        max_body=args.max_body,
        drain=args.drain,
        store_path=None if args.store is None else Path(args.store),
        store_ttl=args.store_ttl,
        store_bytes=args.store_bytes,
        secret=None if args.secret_file is None else read_secret(Path(args.secret_file)),
        log_prompts=args.log_prompts,
        cors_origins=_origins(args.cors_origin or ()),
        hosts=()
        if keys or args.insecure
        else ("localhost", "127.0.0.1", "::1", args.host.strip("[]").lower()),
    )


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


def _origins(given: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    for origin in given:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            raise RequestError(
                f"--cors-origin {origin}: expected * or something such as https://example.org"
            )
    return tuple(given)


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
    """What a model is to say, a sample a line: {"text": "<|channel|>final<|message|>Hi<|return|>"},
    in which names of special tokens are those, or {"ids": [...]}. Raises `RequestError` naming the
    line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
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
        raise RequestError(f"{place} is no JSON: {error}") from error
    ids: Any = None
    if isinstance(said, dict) and len(said) == 1:
        text = said.get("text")
        ids = tokenizer.encode_with_specials(text) if isinstance(text, str) else said.get("ids")
    if not isinstance(ids, list) or not ids or not all(type(id) is int and id >= 0 for id in ids):
        raise RequestError(
            f'{place}: expected {{"text": "..."}} or {{"ids": [1, 2, ...]}}, not empty'
        )
    return ids


def _tokenizer(model: str) -> Tokenizer:
    """Of a model that is not loaded. Those of gpt-oss need not be here."""
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
        f"dense {precision.dense}, activations {precision.activations}, keys and values {precision.kv}; "
        f"context {config.max_context_length:,} tokens, room for {llm.engine.capacity:,}; {kernels}"
    )


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greet(settings: Settings, url: str, about: str) -> None:
    """To stdout, the address in the first line, for programs that wait for it."""
    name, has_keys = settings.model_name, bool(settings.keys)
    names = ", ".join(sorted({key.name for key in settings.keys}))
    header = " -H 'Authorization: Bearer KEY'" if has_keys else ""
    body = json.dumps({"model": name, "input": "What is 37 + 48?"})
    lines = [
        f"ossia {__version__} serves {name} at {url}",
        f"  model      {about}",
        f"  keys       {names if has_keys else 'none needed: whoever can connect may ask'}",
        f"  page       {url}/",
        f"  API        base URL {url}/v1 for OpenAI's clients, {url} for Anthropic's",
        f"  try        curl {url}/v1/responses -H 'Content-Type: application/json'{header} -d '{body}'",
        "Ctrl-C stops it, once running answers have ended.",
    ]
    print("\n".join(lines), flush=True)
    if not has_keys and not is_loopback(url.split("://")[1].rsplit(":", 1)[0]):
        print(
            "ossia: anybody who reaches this machine may ask: there is no API key", file=sys.stderr
        )
