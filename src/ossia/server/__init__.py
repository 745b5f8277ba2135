"""The HTTP server: OpenAI's Responses and Chat Completions, Anthropic's Messages, Ollama's API, and
a page, over one engine.

    app = create_app(engine, tokenizer, Settings(model_name="nano"))  # an ASGI application

A request goes one way: a wire type (`types.py` of each API), the conversation and the parameters
that it stands for (`answer.AnswerRequest`), one stream of events (`answer.Answerer`), and out again
as that API writes them. A body is the fold of the stream that would have been sent. Knows Harmony
and what an engine does, not how: no torch in here.
"""

from __future__ import annotations

from ossia.server.app import create_app
from ossia.server.scripted import ScriptedEngine
from ossia.server.settings import Settings

__all__ = ["ScriptedEngine", "Settings", "create_app"]
