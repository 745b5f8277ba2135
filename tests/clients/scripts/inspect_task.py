"""inspect_ai: a task of three questions, over Chat Completions and over Responses."""

from __future__ import annotations

import tempfile
from typing import Any

from common import MODEL, QUESTION, URL, main
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

ANSWERS = ("85", "85", "86")  # the last one is not what the model says


def ran(model: str, **options: Any) -> dict[str, Any]:
    samples = [Sample(input=QUESTION, target=answer) for answer in ANSWERS]
    task = Task(dataset=samples, solver=generate(), scorer=includes())
    asked = get_model(model, base_url=URL, api_key="none", memoize=False, **options)
    with tempfile.TemporaryDirectory() as folder:
        (log,) = eval(task, asked, log_dir=folder, display="none", reasoning_effort="high")
        assert log.status == "success" and log.results is not None and log.samples is not None
        message = log.samples[0].output.message  # read from the folder now
    reasoning = [part.reasoning for part in message.content if part.type == "reasoning"]
    return {
        "accuracy": round(log.results.scores[0].metrics["accuracy"].value, 3),
        "text": message.text,
        "reasoning": reasoning,
    }


def chat() -> dict[str, Any]:
    return ran(f"openai-api/ossia/{MODEL}")


def responses() -> dict[str, Any]:
    return ran(f"openai/{MODEL}", responses_api=True)


main(chat, responses)
