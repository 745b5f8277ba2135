"""Pydantic AI: agents with a tool and with typed answers, on Chat Completions and on the Responses
API.
"""

from __future__ import annotations

import asyncio
from typing import Any

from common import MODEL, QUESTION, URL, calculate, main
from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, Tool, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

called: list[str] = []


class Answer(BaseModel):
    result: int = Field(ge=0, le=999)  # nano would fill an unbounded number with digits


def calculator(expression: str) -> str:
    """Evaluates an arithmetic expression.

    Args:
        expression: for example 12*7
    """
    called.append(expression)
    return calculate({"expression": expression})


def agent(kind: Any, **more: Any) -> Any:
    client = AsyncOpenAI(
        base_url=URL, api_key="none", max_retries=0, _strict_response_validation=True
    )
    model = kind(MODEL, provider=OpenAIProvider(openai_client=client))
    return Agent(model, model_settings={"temperature": 0}, **more)


def thoughts(result: Any) -> list[str]:
    """The Responses API's raw reasoning is not what this client takes for the content of a
    thought.
    """
    thoughts = [
        part
        for message in result.all_messages()
        for part in message.parts
        if part.part_kind == "thinking"
    ]
    return [
        thought.content or "".join(thought.provider_details["raw_content"]) for thought in thoughts
    ]


async def told(kind: Any) -> Any:
    result = await agent(kind, tools=[Tool(calculator)]).run(QUESTION)
    return {"called": called, "text": result.output, "reasoning": thoughts(result)}


async def streamed(kind: Any) -> Any:
    text = ""
    async with agent(kind, tools=[Tool(calculator)]).run_stream(QUESTION) as result:
        async for delta in result.stream_text(delta=True, debounce_by=None):
            text += delta
    return {"called": called, "text": text, "reasoning": thoughts(result)}


async def typed(kind: Any) -> Any:
    """The answer as structured output."""
    result = await agent(kind, output_type=NativeOutput(Answer)).run(QUESTION)
    return {"result": result.output.result}


async def by_call(kind: Any) -> Any:
    """The answer as the arguments of a call, which is forced by tool_choice."""
    result = await agent(kind, output_type=ToolOutput(Answer, name="answer")).run(QUESTION)
    return {"result": result.output.result}


def chat() -> Any:
    return asyncio.run(told(OpenAIChatModel))


def chat_streamed() -> Any:
    return asyncio.run(streamed(OpenAIChatModel))


def chat_typed() -> Any:
    return asyncio.run(typed(OpenAIChatModel))


def chat_by_call() -> Any:
    return asyncio.run(by_call(OpenAIChatModel))


def responses() -> Any:
    return asyncio.run(told(OpenAIResponsesModel))


def responses_streamed() -> Any:
    return asyncio.run(streamed(OpenAIResponsesModel))


def responses_typed() -> Any:
    return asyncio.run(typed(OpenAIResponsesModel))


def responses_by_call() -> Any:
    return asyncio.run(by_call(OpenAIResponsesModel))


if __name__ == "__main__":
    main(
        chat, chat_streamed, chat_typed, chat_by_call,
        responses, responses_streamed, responses_typed, responses_by_call,
    )  # fmt: skip
