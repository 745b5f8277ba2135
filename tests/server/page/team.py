"""A team's MCP server, on its standard streams, made with the official package."""

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("team", instructions="Of the team.")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def greet(name: str) -> str:
    """Says hello."""
    return f"Hello, <b>{name}</b>!"


@server.tool()
def send(text: str) -> str:
    """Sends a text to all."""
    if not text:
        raise ValueError("there is nothing to send")
    return f"sent {text}"


server.run()
