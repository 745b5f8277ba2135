"""The openai client on Chat Completions: create, parse, stream. It refuses answers that are not
what it declares.
"""

from __future__ import annotations

from typing import Any

from common import DESCRIPTION, MODEL, QUESTION, SCHEMA, URL, calculate, main
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel

client = OpenAI(base_url=URL, api_key="none", max_retries=0, _strict_response_validation=True)
TOOLS = [
    {
        "type": "function",
        "function": {"name": "calculator", "description": DESCRIPTION, "parameters": SCHEMA},
    },
]


class Answer(BaseModel):
    result: int


class Calculator(BaseModel):
    expression: str


def create() -> Any:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asked = client.chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS, temperature=0
    )
    message = asked.choices[0].message
    call = message.tool_calls[0]
    messages += [
        message,
        {"role": "tool", "tool_call_id": call.id, "content": calculate(call.function.arguments)},
    ]
    ended = client.chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS, temperature=0
    )
    return {
        "calls": [[call.function.name, call.function.arguments]],
        "text": ended.choices[0].message.content,
        "reasoning": [message.reasoning, ended.choices[0].message.reasoning],
        "same": message.reasoning == message.reasoning_content,
        "finish": [asked.choices[0].finish_reason, ended.choices[0].finish_reason],
        "usage": [
            one.usage.total_tokens - one.usage.prompt_tokens - one.usage.completion_tokens
            for one in (asked, ended)
        ],
    }


def forgetful() -> Any:
    """As `create`, but the client does not give the reasoning back."""
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asked = client.chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS, temperature=0
    )
    call = asked.choices[0].message.tool_calls[0]
    function = {"name": call.function.name, "arguments": call.function.arguments}
    messages.append(
        {
            "role": "assistant",
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        }
    )
    messages.append(
        {"role": "tool", "tool_call_id": call.id, "content": calculate(call.function.arguments)}
    )
    ended = client.chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS, temperature=0
    )
    return {
        "calls": [[call.function.name, call.function.arguments]],
        "text": ended.choices[0].message.content,
    }


def parse() -> Any:
    ended = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        response_format=Answer,
        temperature=0,
    )
    message = ended.choices[0].message
    return {
        "result": message.parsed.result,
        "text": message.content,
        "reasoning": message.reasoning,
    }


def parse_call() -> Any:
    """The client makes the tool of a type, and objects of that type of the calls."""
    ended = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        tools=[pydantic_function_tool(Calculator, name="calculator", description=DESCRIPTION)],
        temperature=0,
    )
    (call,) = ended.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Calculator)
    return {"expression": call.function.parsed_arguments.expression}


def stream() -> Any:
    """The client's own helper, which folds the stream and says what it sees."""
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    calls, text, kinds = [], "", set()
    for _ in range(2):
        deltas = ""
        with client.chat.completions.stream(
            model=MODEL,
            messages=messages,
            tools=TOOLS,
            temperature=0,
            stream_options={"include_usage": True},
        ) as events:
            for event in events:
                kinds.add(event.type)
                if event.type == "content.delta":
                    text += event.delta
                elif event.type == "tool_calls.function.arguments.delta":
                    deltas += event.arguments_delta
            ended = events.get_final_completion()
        message = ended.choices[0].message
        messages.append(message)
        for call in message.tool_calls or []:
            assert call.function.arguments == deltas
            calls.append([call.function.name, call.function.arguments])
            result = calculate(call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert text == message.content
    return {
        "calls": calls,
        "text": text,
        "kinds": sorted(kinds),
        "counted": ended.usage.completion_tokens > 0,
    }


def chunks() -> Any:
    """The bare stream."""
    text, reasoning, finish, usage = "", "", [], None
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
        temperature=0,
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning", None) or ""
            finish += [choice.finish_reason] if choice.finish_reason else []
    return {
        "text": text,
        "reasoning": reasoning,
        "finish": finish,
        "counted": usage.completion_tokens > 0,
    }


if __name__ == "__main__":
    main(create, forgetful, parse, parse_call, stream, chunks)
