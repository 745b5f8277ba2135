"""Whether a user's rows can be asked at all: looked at before the first step, not met in the
middle of a night.

Makes the first row's environment, and renders the prompts that may be too long. Knows rows and
tokens; no models.
"""

from __future__ import annotations

import json

from ossia.errors import DataError, OssiaError
from ossia.harmony import Conversation, Effort, SystemContent, render_for_completion
from ossia.tasks.environment import said_by
from ossia.tasks.external import ExternalTask
from ossia.tokenizer import Tokenizer

HEAD_BYTES = 1024  # that a system message and the marks of messages may have


def check(task: ExternalTask, tokenizer: Tokenizer, context: int) -> None:
    """`context`: tokens. Raises `DataError` that names the row."""
    for number, row in enumerate(task.rows):
        size = len(json.dumps(row["prompt"])) + len(row.get("instructions") or "")
        # a token is a character or more, but for rare ones
        if number == 0 or size + HEAD_BYTES > context:
            _check_row(task, number, tokenizer, context)


def _check_row(
    task: ExternalTask,
    number: int,
    tokenizer: Tokenizer,
    context: int,
) -> None:
    where = f"{task.name}, row {number + 1}"
    try:
        environment = task.ask(number, Effort.LOW).environment()
        system = SystemContent(effort=Effort.LOW)
        said = Conversation(tuple(environment.prompt(Effort.LOW, system)))
        tokens = len(render_for_completion(said, tokenizer))
    except OssiaError as error:
        raise DataError(f"{where} cannot be asked: {error}") from error
    except Exception as error:  # the user's code: tools(row), environment(row)
        raise DataError(f"{where} cannot be asked: {said_by(error)}") from error
    if tokens >= context:
        raise DataError(
            f"{where}: its prompt has {tokens:,} tokens, and the model's context holds "
            f"{context:,}: shorten or remove it"
        )
