"""What `ossia serve` runs itself beside the model: the options of its tools, and the tools."""

from ossia.commands.hosted.tools import Hosted, Made, check, make

__all__ = ["Hosted", "Made", "check", "make"]
