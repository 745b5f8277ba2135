"""`ossia info`: its options. What it says is `commands/description.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ossia.commands.options import Command, model, option

EPILOG = """\
examples:
  ossia info gpt-oss-20b     from the published numbers: reads no weights, needs no network
  ossia info my-model        a folder: also its files and tokenizer; every tensor's name, shape and
                             dtype is checked, no weight is read
  ossia info nano --json

B is 10^9 parameters, M 10^6; KiB, MiB and GiB are 2^10, 2^20 and 2^30 bytes.
"""


@dataclass(frozen=True)
class Options:
    """What `ossia info` takes."""

    model: str = model()
    json: bool = option(False, "print one JSON object")


def run(options: Options) -> None:
    from ossia.commands.description import as_text, describe

    found = describe(options.model)
    print(json.dumps(found, indent=2) if options.json else as_text(found))


COMMAND = Command(Options, run, EPILOG)
