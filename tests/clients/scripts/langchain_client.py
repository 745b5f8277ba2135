"""langchain-openai: ChatOpenAI on Chat Completions and on the Responses API."""

from __future__ import annotations

from typing import Any

from common import MODEL, QUESTION, URL, calculate, main
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Answer(BaseModel):
    """The result of a sum."""

    result: int


@tool
def calculator(expression: str = Field(description="for example 12*7")) -> str:
    """Evaluates an arithmetic expression."""
    return calculate({"expression": expression})


def model(responses: bool) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=URL,
        api_key="none",
        model=MODEL,
        temperature=0,
        max_retries=0,
        use_responses_api=responses,
        stream_usage=True,  # it asks for usage only of servers that it knows
    )


def invoked(responses: bool) -> Any:
    bound = model(responses).bind_tools([calculator])
    messages: list[Any] = [HumanMessage(QUESTION)]
    asked = bound.invoke(messages)
    messages += [asked, *(calculator.invoke(call) for call in asked.tool_calls)]
    assert isinstance(messages[-1], ToolMessage)
    ended = bound.invoke(messages)
    return {
        "calls": [[call["name"], call["args"]] for call in asked.tool_calls],
        "invalid": asked.invalid_tool_calls,
        "text": ended.text,
        "counted": ended.usage_metadata["total_tokens"] > 0,
    }


def streamed(responses: bool) -> Any:
    bound = model(responses).bind_tools([calculator])
    messages: list[Any] = [HumanMessage(QUESTION)]
    asked = added(bound.stream(messages))
    messages += [asked, *(calculator.invoke(call) for call in asked.tool_calls)]
    ended = added(bound.stream(messages))
    return {
        "calls": [[call["name"], call["args"]] for call in asked.tool_calls],
        "invalid": asked.invalid_tool_calls,
        "text": ended.text,
        "counted": ended.usage_metadata["total_tokens"] > 0,
    }


def added(chunks: Any) -> Any:
    whole = next(chunks)
    for chunk in chunks:
        whole += chunk
    return whole


def structured(responses: bool) -> Any:
    by_schema = (
        model(responses).with_structured_output(Answer, method="json_schema").invoke(QUESTION)
    )
    return {"result": by_schema.result}


def by_call(responses: bool) -> Any:
    """A call that is forced by tool_choice carries the answer."""
    return {
        "result": model(responses)
        .with_structured_output(Answer, method="function_calling")
        .invoke(QUESTION)
        .result
    }


def chat() -> Any:
    return invoked(False)


def chat_streamed() -> Any:
    return streamed(False)


def chat_structured() -> Any:
    return structured(False)


def chat_by_call() -> Any:
    return by_call(False)


def responses() -> Any:
    return invoked(True)


def responses_streamed() -> Any:
    return streamed(True)


def responses_structured() -> Any:
    return structured(True)


def responses_by_call() -> Any:
    return by_call(True)


if __name__ == "__main__":
    main(
        chat, chat_streamed, chat_structured, chat_by_call,
        responses, responses_streamed, responses_structured, responses_by_call,
    )  # fmt: skip
