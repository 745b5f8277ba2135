"""openai-agents: an agent with a function tool, on both APIs, streamed and not."""

from __future__ import annotations

import asyncio
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from common import MODEL, QUESTION, URL, calculate, main
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=URL, api_key="none", max_retries=0, _strict_response_validation=True)
called: list[str] = []


class Answer(BaseModel):
    result: int


@function_tool
def calculator(expression: str) -> str:
    """Evaluates an arithmetic expression.

    Args:
        expression: for example 12*7
    """
    called.append(expression)
    return calculate({"expression": expression})


def agent(kind: Any, **more: Any) -> Agent[None]:
    model = kind(model=MODEL, openai_client=client)
    return Agent(name="sums", model=model, model_settings=ModelSettings(temperature=0), **more)


async def told(kind: Any) -> Any:
    result = await Runner.run(agent(kind, tools=[calculator]), QUESTION)
    return {
        "called": called,
        "text": result.final_output,
        "items": [item.type for item in result.new_items],
    }


async def streamed(kind: Any) -> Any:
    result = Runner.run_streamed(agent(kind, tools=[calculator]), QUESTION)
    text, items = "", []
    async for event in result.stream_events():
        if event.type == "run_item_stream_event":
            items.append(event.item.type)
        elif event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    assert text == result.final_output
    return {"called": called, "text": text, "items": items}


async def typed(kind: Any) -> Any:
    result = await Runner.run(agent(kind, output_type=Answer), QUESTION)
    return {"result": result.final_output.result}


def responses() -> Any:
    return asyncio.run(told(OpenAIResponsesModel))


def responses_streamed() -> Any:
    return asyncio.run(streamed(OpenAIResponsesModel))


def responses_typed() -> Any:
    return asyncio.run(typed(OpenAIResponsesModel))


def chat() -> Any:
    return asyncio.run(told(OpenAIChatCompletionsModel))


def chat_streamed() -> Any:
    return asyncio.run(streamed(OpenAIChatCompletionsModel))


def chat_typed() -> Any:
    return asyncio.run(typed(OpenAIChatCompletionsModel))


if __name__ == "__main__":
    main(responses, responses_streamed, responses_typed, chat, chat_streamed, chat_typed)
