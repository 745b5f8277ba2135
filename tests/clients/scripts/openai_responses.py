"""The openai client on the Responses API: create, parse, stream, state on either side,
background.
"""

from __future__ import annotations

import time
from typing import Any

from common import DESCRIPTION, MODEL, QUESTION, SCHEMA, URL, calculate, main
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel

client = OpenAI(base_url=URL, api_key="none", max_retries=0, _strict_response_validation=True)
TOOLS: Any = [
    {
        "type": "function",
        "name": "calculator",
        "description": DESCRIPTION,
        "parameters": SCHEMA,
        "strict": True,
    },
]
COMMON: Any = {"model": MODEL, "tools": TOOLS, "temperature": 0}


class Answer(BaseModel):
    result: int


class Calculator(BaseModel):
    expression: str


def told(*answers: Any) -> dict[str, Any]:
    """What was thought, called and said."""
    items = [item for answer in answers for item in answer.output]
    return {
        "reasoning": [item.content[0].text for item in items if item.type == "reasoning"],
        "calls": [[item.name, item.arguments] for item in items if item.type == "function_call"],
        "text": answers[-1].output_text,
        "status": [answer.status for answer in answers],
    }


def numbered(events: list[Any]) -> bool:
    """Whether they count from 0, none left out and none said twice."""
    return [event.sequence_number for event in events] == list(range(len(events)))


def results(answer: Any) -> list[Any]:
    return [
        {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": calculate(item.arguments),
        }
        for item in answer.output
        if item.type == "function_call"
    ]


def create() -> Any:
    """Nothing is stored: the client gives everything back, the reasoning sealed."""
    items: list[Any] = [{"role": "user", "content": QUESTION}]
    wishes = {
        **COMMON,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "medium"},
    }
    asked = client.responses.create(input=items, **wishes)
    thought = next(item for item in asked.output if item.type == "reasoning")
    assert thought.encrypted_content
    for item in asked.output:
        given = item.model_dump(exclude_none=True)
        if item.type == "reasoning":
            given.pop("content")  # what is sealed is enough
        items.append(given)
    ended = client.responses.create(input=items + results(asked), **wishes)
    used = ended.usage
    assert used.total_tokens == used.input_tokens + used.output_tokens
    assert used.output_tokens_details.reasoning_tokens > 0
    return told(asked, ended)


def parse() -> Any:
    ended = client.responses.parse(model=MODEL, input=QUESTION, text_format=Answer, temperature=0)
    return {**told(ended), "result": ended.output_parsed.result}


def parse_call() -> Any:
    """The client makes the tool of a type, and objects of that type of the calls."""
    tool = pydantic_function_tool(Calculator, name="calculator", description=DESCRIPTION)
    ended = client.responses.parse(model=MODEL, input=QUESTION, tools=[tool], temperature=0)
    (call,) = (item for item in ended.output if item.type == "function_call")
    assert isinstance(call.parsed_arguments, Calculator)
    return {"expression": call.parsed_arguments.expression}


def stream() -> Any:
    """The client's helper folds the events; the server keeps the state."""
    answers: list[Any] = []
    seen: list[list[Any]] = []
    items: Any = QUESTION
    for _ in range(2):
        before = answers[-1].id if answers else None
        with client.responses.stream(input=items, previous_response_id=before, **COMMON) as events:
            seen.append(list(events))
            answers.append(events.get_final_response())
        items = results(answers[-1])
    deltas = [event.delta for event in seen[-1] if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answers[-1].output_text and len(deltas) > 1
    kinds = list(dict.fromkeys(event.type for events in seen for event in events))
    return {**told(*answers), "kinds": kinds, "numbered": all(map(numbered, seen))}


def previous() -> Any:
    """The server keeps the state, and gives it out and forgets it when it is told to."""
    asked = client.responses.create(input=QUESTION, **COMMON)
    ended = client.responses.create(input=results(asked), previous_response_id=asked.id, **COMMON)
    again = client.responses.retrieve(ended.id)
    assert again.output_text == ended.output_text and again.usage == ended.usage
    listed = list(client.responses.input_items.list(ended.id, order="asc"))
    client.responses.delete(ended.id)
    return {**told(asked, ended), "listed": [item.type for item in listed]}


def conversation() -> Any:
    made = client.conversations.create(metadata={"topic": "sums"})
    asked = client.responses.create(input=QUESTION, conversation=made.id, **COMMON)
    ended = client.responses.create(input=results(asked), conversation=made.id, **COMMON)
    kept = [item.type for item in client.conversations.items.list(made.id, order="asc")]
    client.conversations.delete(made.id)
    return {**told(asked, ended), "kept": kept}


def background() -> Any:
    started = client.responses.create(model=MODEL, input=QUESTION, background=True, temperature=0)
    first, deadline = started.status, time.monotonic() + 20
    while started.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
        started = client.responses.retrieve(started.id)
    return {**told(started), "first": first}


def resume() -> Any:
    """The connection is lost after four events; the rest is asked for."""
    seen: list[Any] = []
    with client.responses.create(
        model=MODEL, input=QUESTION, background=True, stream=True, temperature=0
    ) as events:
        for event in events:
            seen.append(event)
            if len(seen) == 4:
                break
    id = seen[0].response.id
    rest = client.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number)
    seen += list(rest)
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    return {"text": text, "numbered": numbered(seen), "last": seen[-1].type}


def count() -> Any:
    counted = client.responses.input_tokens.count(model=MODEL, input=QUESTION, tools=TOOLS)
    asked = client.responses.create(input=QUESTION, **COMMON)
    return {"same": counted.input_tokens == asked.usage.input_tokens > 0}


if __name__ == "__main__":
    main(create, parse, parse_call, stream, previous, conversation, background, resume, count)
