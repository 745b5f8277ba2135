"""`ossia serve`: its options. What is done with them is `commands/serve_app.py`, which loads the
server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
)

EPILOG = """\
OpenAI's clients are given the base URL http://127.0.0.1:8000/v1, Anthropic's http://127.0.0.1:8000;
a browser finds a page to chat on. Which model a request names does not matter, unless
--strict-model-names.

keys:
  A line of the key file is: NAME KEY [concurrent=N] [tokens-per-minute=N] KEY is the secret itself,
  or sha256: and its digest in hex. OSSIA_API_KEYS holds such lines too, or several between commas.
  Without keys only this machine is let in, unless --insecure.

end:
  SIGTERM or Ctrl-C: new requests are refused, /ready says 503, running answers have --drain
  seconds. A second signal ends at once.

scripts:
  Each line is what a model says at one go; the last is repeated. Names of special tokens are those
  tokens. {"text": "<|channel|>final<|message|>Hi<|return|>"} or {"ids": [1, 2, 3]}; MODEL gives the
  tokenizer.

examples:
  ossia serve                                       nano, the small model inside ossia
  ossia serve gpt-oss-20b --dense int8 --activations int8 --warm-up
  ossia serve gpt-oss-20b --host 0.0.0.0 --api-key-file keys.txt --store s.db --secret-file secret
  ossia serve nano --script answers.jsonl           to test a client

OTEL_EXPORTER_OTLP_ENDPOINT names who is sent spans; that takes pip install 'ossia[otel]'.
"""


@dataclass(frozen=True)
class Access:
    """Where the server listens, and whom it answers."""

    TITLE: ClassVar[str] = "who may ask"
    ABOUT: ClassVar[str | None] = None

    host: str = option("127.0.0.1", "address to listen on; other than loopback only with a key")
    port: Port = option(8000, "0: any free one", "N")
    api_key_file: str | None = option(None, "keys and their limits, see below", "FILE")
    insecure: bool = option(False, "let other machines, and pages by other names, in without a key")
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

    max_queue: Positive = option(256, "requests answered or waiting; one more gets a 429", "N")
    max_body: Size = option(
        32 << 20, "of a request; a larger one gets a 413", "SIZE", shown="32MiB"
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
        None, "a file for responses and conversations", "FILE", shown="in memory"
    )
    store_ttl: Seconds = option(30 * 86400.0, "", "TIME", shown="30d")
    store_bytes: Size = option(1 << 30, "", "SIZE", shown="1GiB")
    secret_file: str | None = option(
        None,
        "seals reasoning that clients keep; made if it is not there",
        "FILE",
        shown="a new secret every time",
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
    kept: Kept = Kept()
    computing: ServeComputing = ServeComputing()


def run(options: Options) -> None:
    """Until it is stopped. Raises `KeyboardInterrupt` if that was by Ctrl-C."""
    from ossia.commands import serve_app

    serve_app.serve(options)


COMMAND = Command(Options, run, EPILOG)
