"""MCP: other programs' tools for the model (`tool.McpServer`, and `request.RequestedServer` as one
request wants it), and ours for other programs (`serving`). Needs `pip install 'ossia[tools]'`; the
package is imported when it is used.
"""

from ossia.tools.approval import Asked, Verdict
from ossia.tools.mcp.config import McpConfig, read_config
from ossia.tools.mcp.python import RemotePython
from ossia.tools.mcp.request import RequestedServer, Which, Wishes
from ossia.tools.mcp.tool import McpServer

__all__ = [
    "Asked",
    "McpConfig",
    "McpServer",
    "RemotePython",
    "RequestedServer",
    "Verdict",
    "Which",
    "Wishes",
    "read_config",
]
