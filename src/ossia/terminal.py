"""Chat at a terminal or through a pipe: shows the events of a turn, reads lines, knows the /commands.

Knows escape codes, prompt_toolkit and signals; the conversation is answered by `LLM.chat`. Nothing here samples, parses
or runs a tool.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import StdoutProxy

from ossia.chat import Event, ToolCalled, ToolReturned, TurnEnd
from ossia.errors import HarmonyError, OssiaError, RequestError
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    Effort,
    Message,
    MessageStart,
    Role,
    SystemContent,
    TextDelta,
    render_for_completion,
)
from ossia.llm import LLM, to_conversation
from ossia.tools import Tool

HELP = """\
/effort low|medium|high   how much the model reasons before it answers
/system TEXT              instructions for the model; /system alone shows them, /system none removes them
/reasoning on|off         show the reasoning, or only the answer
/new                      forget the conversation (also /reset)
/save FILE                write the conversation as JSON; /load FILE goes on from one
/tokens                   what the conversation takes of the context, and how fast it went
/quit                     leave (also Ctrl-D)
Enter sends; Alt-Enter, or Esc and Enter, begins a new line; arrow up recalls; Ctrl-C stops an answer.
A message that begins with / needs a blank before it."""
"""
