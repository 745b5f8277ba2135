"""openai-agents: tools with items of their own kind, streamed and not: what the server runs (a
search, code, an MCP server that asks for approval), a local shell, patches.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agents import (
    Agent,
    ApplyPatchTool,
    CodeInterpreterTool,
    HostedMCPTool,
    OpenAIResponsesModel,
    Runner,
    ShellTool,
    WebSearchTool,
    set_tracing_disabled,
)
from agents.editor import ApplyPatchOperation, ApplyPatchResult
from agents.tool import ShellCallOutcome, ShellCommandOutput, ShellResult
from common import MODEL, QUESTION, URL, main
from openai import AsyncOpenAI

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=URL, api_key="none", max_retries=0)
seen: list[Any] = []


class Editor:
    """Notes what it is asked to do."""

    def create_file(self, operation: ApplyPatchOperation) -> ApplyPatchResult:
        return self.noted(operation)

    def update_file(self, operation: ApplyPatchOperation) -> ApplyPatchResult:
        return self.noted(operation)

    def delete_file(self, operation: ApplyPatchOperation) -> ApplyPatchResult:
        return self.noted(operation)

    def noted(self, operation: ApplyPatchOperation) -> ApplyPatchResult:
        seen.append([operation.type, operation.path, operation.diff])
        return ApplyPatchResult(status="completed", output=f"did {operation.path}")


def run_commands(request: Any) -> ShellResult:
    action = request.data.action
    seen.append([action.commands, action.timeout_ms])
    done = ShellCallOutcome(type="exit", exit_code=0)
    return ShellResult(
        output=[
            ShellCommandOutput(stdout=f"ran {each}\n", outcome=done) for each in action.commands
        ]
    )


def approving(approve: bool) -> HostedMCPTool:
    def decide(request: Any) -> dict[str, Any]:
        seen.append([request.data.name, request.data.arguments])
        return {"approve": True} if approve else {"approve": False, "reason": "Not today."}

    config = {"type": "mcp", "server_label": "my-team", "require_approval": "always"}
    return HostedMCPTool(tool_config=config, on_approval_request=decide)


def agent(tool: Any) -> Agent[None]:
    model = OpenAIResponsesModel(model=MODEL, openai_client=client)
    return Agent(name="tools", model=model, tools=[tool])


async def told(tool: Any) -> Any:
    result = await Runner.run(agent(tool), QUESTION)
    items = [item.type for item in result.new_items]
    return {"seen": seen, "text": result.final_output, "items": items}


async def streamed(tool: Any) -> Any:
    result = Runner.run_streamed(agent(tool), QUESTION)
    async for _ in result.stream_events():
        pass
    items = [item.type for item in result.new_items]
    return {"seen": seen, "text": result.final_output, "items": items}


def approval() -> Any:
    return asyncio.run(told(approving(True)))


def approval_streamed() -> Any:
    return asyncio.run(streamed(approving(True)))


def refusal() -> Any:
    return asyncio.run(told(approving(False)))


def shell() -> Any:
    return asyncio.run(told(ShellTool(executor=run_commands)))


def shell_streamed() -> Any:
    return asyncio.run(streamed(ShellTool(executor=run_commands)))


def code() -> CodeInterpreterTool:
    container = {"type": "auto"}
    return CodeInterpreterTool(tool_config={"type": "code_interpreter", "container": container})


def search_web() -> Any:
    return asyncio.run(told(WebSearchTool()))


def search_web_streamed() -> Any:
    return asyncio.run(streamed(WebSearchTool()))


def run_code() -> Any:
    return asyncio.run(told(code()))


def run_code_streamed() -> Any:
    return asyncio.run(streamed(code()))


def patch() -> Any:
    return asyncio.run(told(ApplyPatchTool(editor=Editor())))


def patch_streamed() -> Any:
    return asyncio.run(streamed(ApplyPatchTool(editor=Editor())))


if __name__ == "__main__":
    main(
        approval,
        approval_streamed,
        refusal,
        shell,
        shell_streamed,
        patch,
        patch_streamed,
        search_web,
        search_web_streamed,
        run_code,
        run_code_streamed,
    )
