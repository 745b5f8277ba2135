"""What a call of the model's means: the tool, its arguments, or what is wrong with it; and the
grammar that calls are held to.

Knows a toolbox and how arguments are read and mended; nothing of tokens, and it runs no tool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ossia.harmony import HarmonyGrammar, Message, MessageEnd, UnknownTool, read_arguments
from ossia.tools import Toolbox, ToolTarget


@dataclass(frozen=True)
class ReadCall:
    """`message`: the call, addressed by the tool's full name, with arguments that can be read.

    `target`: None if there is no such tool. `wrong`: what the model is told of a call that cannot
    be understood; then `message` is as the model wrote it. `repaired`: whether the arguments had to
    be mended.
    """

    message: Message
    target: ToolTarget | None
    wrong: str | None = None
    repaired: bool = False


def read_call(toolbox: Toolbox, end: MessageEnd, *, is_ready: bool) -> ReadCall:
    """`is_ready`: the parser says that the call is complete. Arguments are read only then, and
    mended only if the model itself closed the call: what was cut may have been meant to go on.
    """
    message = end.message
    target = toolbox.resolve(message.recipient)
    if isinstance(target, UnknownTool):
        return ReadCall(message, None, target.text)
    addressed = replace(message, recipient=target.recipient)
    if target.takes_text or not is_ready:
        return ReadCall(addressed, target)
    is_closed = end.closed_by in ("<|call|>", "<|end|>")
    read = read_arguments(message.text, target.parameters if is_closed else None)
    if read.value is None:
        wrong = f"the arguments are not valid JSON: {read.diagnosis or 'found null'}"
        return ReadCall(addressed, target, wrong)
    arguments = read.text if read.text.strip() else "{}"
    return ReadCall(replace(addressed, content=arguments), target, None, read.repaired)


@dataclass(frozen=True)
class Grammars:
    """The grammars of an answer's samples: a tool choice binds up to the first call, and what
    follows is free, or the answer could never end.
    """

    first: HarmonyGrammar | None = None
    after_call: HarmonyGrammar | None = None

    @classmethod
    def of(cls, toolbox: Toolbox, make: Callable[[Toolbox], HarmonyGrammar]) -> Grammars:
        """`make` makes the grammar of a toolbox. Only our own tools' calls are followed by another
        sample.
        """
        first = make(toolbox)
        later = toolbox.choice.after_call
        if later == toolbox.choice or not toolbox.builtin:
            return cls(first, first)
        return cls(first, make(replace(toolbox, choice=later)))

    def of_sample(self, *, has_called: bool) -> HarmonyGrammar | None:
        return self.after_call if has_called else self.first


FREE = Grammars()  # nothing is enforced
