"""A conversation in progress with a model, loaded here or behind a URL: what was said, and how the
next turn is asked for.

Nothing here samples, parses or runs a tool: a turn is `LLM.chat`, or `Server.chat`. Loads no torch.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossia.commands.display import progress
from ossia.commands.hosted.chat import Bench
from ossia.commands.terminal.approvals import Approver
from ossia.commands.terminal.interrupts import Interrupt
from ossia.commands.terminal.remote import Server
from ossia.commands.terminal.screen import Screen
from ossia.config import account
from ossia.errors import HarmonyError, RequestError
from ossia.files import replace_file
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    Effort,
    Message,
    Role,
    SystemContent,
    render_for_completion,
)
from ossia.tools import SessionKey, Tool, Toolbox
from ossia.turn.events import TurnEnd, Usage

if TYPE_CHECKING:
    from ossia.llm import LLM

STOPPED = "stopped"
CUT = "the tokens ran out (--max-tokens, or the context is full)"
FORGOTTEN = "before an answer began; the question is forgotten"
STAYS = "the answer stays in the conversation as far as it got"
DONE = "what tools did stays in the conversation"


@dataclass
class Session:
    """What was said, and how the next turn will be asked for. `effort` None: as the server does.

    `name`: the model's; `load` makes another of a name; `available`: tools that may be offered, by
    name; `bench`: those of them that keep state, and what a person is told of them. `thread`: by
    which tools know the conversation; `approver`: asked before calls that need approval.
    """

    llm: LLM | Server
    effort: Effort | None
    instructions: str | None
    date: str | None
    tools: tuple[Tool, ...]
    sampling: dict[str, Any]
    history: list[Message] = field(default_factory=list)  # without system and developer message
    answered_tokens: int = 0
    seconds: float = 0.0
    name: str = ""
    load: Callable[[str], LLM | Server] | None = None
    available: Mapping[str, Tool] = field(default_factory=dict)
    bench: Bench = field(default_factory=Bench)
    approver: Approver = field(default_factory=Approver)
    thread: str = field(default_factory=lambda: secrets.token_hex(16))
    forgotten: str = ""  # the last question, if it got no answer
    usage: Usage = Usage()  # of the last turn

    def conversation(self, *more: Message) -> Conversation:
        toolbox = Toolbox(builtin=self.tools)
        system = SystemContent(
            current_date=self.date, effort=self.effort, namespaces=toolbox.system_namespaces
        )
        lead = [Message(Role.SYSTEM, system)]
        developer = toolbox.developer(self.instructions)
        if developer is not None:
            lead.append(Message(Role.DEVELOPER, developer))
        return Conversation((*lead, *self.history, *more))

    def ask(self, text: str, screen: Screen, interrupt: Interrupt | None = None) -> str:
        """Answer `text` on the screen; returns what the user should be told besides, or "".

        An answer that was stopped or cut stays in the conversation as far as it got. If none had
        begun, the question is forgotten: reasoning without an answer would only confuse the next
        turn.
        """
        user = Message(Role.USER, text)
        self.forgotten = text
        began = time.perf_counter()
        try:
            end = self._answer(user, screen, interrupt)
        except KeyboardInterrupt:
            if interrupt is None:
                raise
            return f"stopped {FORGOTTEN}"
        self.seconds += time.perf_counter() - began
        self.answered_tokens += end.completion_tokens
        self.usage = end.usage
        stopped = interrupt is not None and interrupt.asked
        why = STOPPED if stopped else CUT
        messages = end.messages
        if end.reason == "length" and not end.text:
            messages = up_to_last_result(messages)
            if not messages:
                return f"{why} {FORGOTTEN}"
        self.history += [user, *messages]
        self.forgotten = ""
        match end.reason:
            case "length" if not end.text:
                return f"{why}; {DONE}"
            case "length":
                return f"{why}; {STAYS}"
            case "tool_rounds":
                return "the model kept calling tools and gave no answer"
        return "" if end.text else "the model ended its turn without an answer"

    def _answer(self, user: Message, screen: Screen, interrupt: Interrupt | None) -> TurnEnd:
        options: dict[str, Any] = dict(self.sampling)
        if interrupt is not None:
            options["stop"] = interrupt
        conversation = self.conversation(user)
        if isinstance(self.llm, Server):
            return self._shown(self.llm.chat(conversation, **options), screen)
        with progress("reading the prompt", "tokens") as tell:
            options |= {"tools": self.tools, "thread": self.thread, "progress": tell}
            chat = self.llm.chat(conversation, **options)
            if interrupt is not None:
                interrupt.break_calls = chat.interrupt
            return self._shown(chat, screen)

    def _shown(self, events: Any, screen: Screen) -> TurnEnd:
        for event in events:
            screen.show(event)
            if isinstance(event, TurnEnd):
                return event
        raise AssertionError("a turn ends with a TurnEnd")

    def new(self) -> None:
        """Forget what was said; tools forget it, too."""
        self.bench.end(SessionKey(conversation=self.thread))
        self.thread = secrets.token_hex(16)
        self.history = []
        self.forgotten = ""

    def take_back(self) -> str:
        """The last question, which is then not in the conversation any more, nor is its answer; ""
        if there is none.
        """
        if self.forgotten:
            return self.forgotten
        for index in reversed(range(len(self.history))):
            if self.history[index].role is Role.USER:
                text = self.history[index].text
                del self.history[index:]
                return text
        return ""

    def switch(self, name: str) -> None:
        """Go on with another model. Raises what loading it raises; then this one stays."""
        if self.load is None:
            raise RequestError("this chat stays with its model")
        self.llm = self.load(name)
        self.name = name

    # ---- what can be said of it

    def about(self) -> str:
        """The model, in a few words."""
        if isinstance(self.llm, Server):
            return self.llm.url
        sizes = account(self.llm.config)
        scale = 1e6
        unit = "M"
        if sizes.total >= 1e9:
            scale = 1e9
            unit = "B"
        total = f"{sizes.total / scale:.1f}{unit} parameters"
        return f"{total}, {sizes.active / scale:.1f}{unit} active"

    def taken(self) -> str:
        """How much of the context the conversation takes, and how fast answers were."""
        if isinstance(self.llm, Server):
            usage = "the server has counted no tokens of the last answer"
            if self.usage.total:
                usage = f"the last answer: {self.usage.prompt:,} tokens read, "
                usage += f"{self.usage.completion:,} written, as the server counts"
        else:
            taken = len(render_for_completion(self.conversation(), self.llm.tokenizer))
            context = self.llm.config.max_context_length
            usage = f"the conversation takes {taken:,} of {context:,} tokens"
        if self.answered_tokens:
            rate = self.answered_tokens / self.seconds
            usage += f"; {self.answered_tokens:,} were sampled in {self.seconds:.1f} s, "
            usage += f"{rate:.1f} tokens/s"
        return usage

    # ---- files

    def save(self, path: Path) -> str:
        if path.exists() and not _is_conversation(path):
            return f"{path}: exists and does not hold a conversation; choose another name"
        text = json.dumps(self.conversation().to_dict(), indent=2, ensure_ascii=False)
        replace_file(path, (text + "\n").encode("utf-8", "replace"))
        return f"{len(self.history)} messages saved in {path}"

    def read(self, path: Path) -> str:
        """Go on from the conversation in a file. Raises `ValueError` or `HarmonyError` if it holds
        none.
        """
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("expected an object")
        messages = Conversation.from_dict(data).messages
        self.new()
        for message in messages:
            if isinstance(message.content, SystemContent):
                self.effort = Effort(message.content.effort or self.effort or Effort.MEDIUM)
            elif isinstance(message.content, DeveloperContent):
                self.instructions = message.content.instructions
            else:
                self.history.append(message)
        return f"{len(self.history)} messages from {path}; effort {self.effort}"


def up_to_last_result(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Without the reasoning that led to nothing: an answer that was stopped after tools had run."""
    results = [n for n, message in enumerate(messages) if message.role is Role.TOOL]
    return tuple(messages[: results[-1] + 1]) if results else ()


def _is_conversation(path: Path) -> bool:
    try:
        Conversation.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, HarmonyError):
        return False
    return True
