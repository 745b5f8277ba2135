"""What the scripts share: where the server is, what it is asked, and how a script says what it got.

A script runs in its client's own environment, so nothing of ossia can be imported here.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

URL = os.environ["OSSIA_URL"]  # with /v1
MODEL = os.environ["OSSIA_MODEL"]
QUESTION = "What is 37 + 48?"
SCHEMA = {
    "type": "object",
    "properties": {"expression": {"type": "string", "description": "for example 12*7"}},
    "required": ["expression"],
    "additionalProperties": False,
}
DESCRIPTION = "Evaluates an arithmetic expression."


def calculate(arguments: str | dict[str, Any]) -> str:
    """The sum that a call of the calculator asks for."""
    read = json.loads(arguments) if isinstance(arguments, str) else arguments
    return str(sum(int(part) for part in read["expression"].split("+")))


def main(*cases: Callable[[], Any]) -> None:
    """Run the case that the command line names and print what it returns as JSON. From here on
    warnings are errors, but for those that Python keeps to itself, deprecations above all, and
    those that a script has let pass.
    """
    case = {case.__name__: case for case in cases}[sys.argv[1]]
    warnings.simplefilter("error", append=True)
    got = asyncio.run(case()) if inspect.iscoroutinefunction(case) else case()
    print(json.dumps(got))
