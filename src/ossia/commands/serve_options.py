"""The options of `ossia serve`, and its help. What is done with them is `commands/serve.py`, which
loads torch.
"""

from __future__ import annotations

import argparse

from ossia.commands import arguments

TEXT = """\
OpenAI's clients are given the base URL http://127.0.0.1:8000/v1, Anthropic's http://127.0.0.1:8000; a browser
finds a page to chat on. Which model a request names does not matter, unless --strict-model-names.

keys:
  A line of the key file is: NAME KEY [concurrent=N] [tokens-per-minute=N]
  KEY is the secret itself, or sha256: and its digest in hex. OSSIA_API_KEYS holds such lines too, or several
  between commas. Without keys only this machine is let in, unless --insecure.

end:
  SIGTERM or Ctrl-C: new requests are refused, /ready says 503, running answers have --drain seconds. A second
  signal ends at once.

scripts:
  Each line is what a model says at one go; the last is repeated. Names of special tokens are those tokens.
  {"text": "<|channel|>final<|message|>Hi<|return|>"} or {"ids": [1, 2, 3]}; MODEL gives the tokenizer.

examples:
  ossia serve                                       nano, the small model inside ossia
  ossia serve gpt-oss-20b --dense int8 --activations int8 --warm-up
  ossia serve gpt-oss-20b --host 0.0.0.0 --api-key-file keys.txt --store responses.db --secret-file secret
  ossia serve nano --script answers.jsonl           to test a client

OTEL_EXPORTER_OTLP_ENDPOINT names who is sent spans; that takes pip install 'ossia[otel]'.
"""


def add(p: argparse.ArgumentParser) -> None:
    arguments.model(p)
    group = p.add_argument_group("who may ask")
    text = "address to listen on; other than loopback only with a key (default: 127.0.0.1)"
    group.add_argument("--host", default="127.0.0.1", help=text)
    group.add_argument(
        "--port",
        type=arguments.port,
        default=8000,
        metavar="N",
        help="0: any free one (default: 8000)",
    )
    group.add_argument("--api-key-file", metavar="FILE", help="keys and their limits, see below")
    group.add_argument(
        "--insecure",
        action="store_true",
        help="let other machines, and pages by other names, in without a key",
    )
    text = (
        "pages that may ask from a browser, such as https://example.org; repeatable (default: none)"
    )
    group.add_argument("--cors-origin", action="append", metavar="ORIGIN", help=text)
    group = p.add_argument_group("answers")
    group.add_argument(
        "--model-name", metavar="NAME", help="what clients call it (default: after MODEL)"
    )
    group.add_argument(
        "--strict-model-names", action="store_true", help="refuse requests that name another model"
    )
    text = "how much to reason where a request says nothing (default: medium)"
    group.add_argument(
        "--default-effort", choices=("low", "medium", "high"), default="medium", help=text
    )
    text = "do not hold answers to the grammar of Harmony and of their tools; schemas of a request still hold"
    group.add_argument("--unconstrained", action="store_true", help=text)
    group.add_argument(
        "--script", metavar="FILE", help="say what FILE says, see below; no model is loaded"
    )
    text = "of --script: what a step takes (default: 0)"
    group.add_argument(
        "--script-delay", type=arguments.seconds, default=0.0, metavar="TIME", help=text
    )
    group = p.add_argument_group(
        "limits", "SIZE: such as 32MB or 1GiB. TIME: such as 500ms, 30s, 12h or 30d."
    )
    text = "requests answered or waiting; one more gets a 429 (default: 256)"
    group.add_argument("--max-queue", type=arguments.positive, default=256, metavar="N", help=text)
    text = "of a request; a larger one gets a 413 (default: 32MiB)"
    group.add_argument(
        "--max-body", type=arguments.byte_count, default=32 << 20, metavar="SIZE", help=text
    )
    text = "that running answers have when the server is stopped (default: 30s)"
    group.add_argument("--drain", type=arguments.seconds, default=30.0, metavar="TIME", help=text)
    group = p.add_argument_group("what is kept")
    text = "a file for responses and conversations (default: in memory)"
    group.add_argument("--store", metavar="FILE", help=text)
    group.add_argument(
        "--store-ttl",
        type=arguments.seconds,
        default=2592000.0,
        metavar="TIME",
        help="(default: 30d)",
    )
    group.add_argument(
        "--store-bytes",
        type=arguments.byte_count,
        default=1 << 30,
        metavar="SIZE",
        help="(default: 1GiB)",
    )
    text = "seals reasoning that clients keep; made if it is not there (default: a new secret every time)"
    group.add_argument("--secret-file", metavar="FILE", help=text)
    group.add_argument(
        "--log-prompts", action="store_true", help="write what is asked to the log, too"
    )
    group = arguments.computing(p)
    group.add_argument(
        "--warm-up", action="store_true", help="compute a short answer before the first request"
    )
