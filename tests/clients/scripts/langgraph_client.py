"""An agent of LangGraph's on the Responses API: a loop of the server's tools and one of its own."""

from __future__ import annotations

from typing import Any

from common import MODEL, QUESTION, URL, calculate, main
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import Field

seen: list[str] = []


@tool
def calculator(expression: str = Field(description="for example 12*7")) -> str:
    """Evaluates an arithmetic expression."""
    seen.append(expression)
    return calculate({"expression": expression})


def agent(*, stores: bool) -> Any:
    model = ChatOpenAI(
        base_url=URL,
        api_key="none",
        model=MODEL,
        max_retries=0,
        use_responses_api=True,
        store=stores,
        include=["code_interpreter_call.outputs", "reasoning.encrypted_content"],
    )
    interpreter = {"type": "code_interpreter", "container": {"type": "auto"}}
    return create_agent(model, [calculator, {"type": "web_search"}, interpreter])


def told(messages: list[Any]) -> Any:
    blocks = [block for each in messages for block in each.content if isinstance(block, dict)]
    kinds = [block["type"] for block in blocks if block["type"].endswith("_call")]
    return {
        "called": seen,
        "hosted": [kind for kind in kinds if kind != "function_call"],
        "text": messages[-1].text,
    }


def invoked() -> Any:
    ended = agent(stores=True).invoke({"messages": [("user", QUESTION)]})
    return told(ended["messages"])


def streamed() -> Any:
    messages: list[Any] = []
    given = {"messages": [("user", QUESTION)]}
    for step in agent(stores=False).stream(given, stream_mode="updates"):
        for update in step.values():
            messages += update["messages"]
    return told(messages)


if __name__ == "__main__":
    main(invoked, streamed)
