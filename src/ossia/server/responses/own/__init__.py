"""Tools whose calls are items of a kind of their own: MCP servers', patches, commands."""
