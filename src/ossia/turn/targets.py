"""What a call of the model's means: the tool, its arguments, or what is wrong with it; and the
grammar that calls are held to.

Knows a toolbox and how arguments are read and mended; nothing of tokens, and it runs no tool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from ossia.harmony import HarmonyGrammar, Message, MessageEnd, UnknownTool, read_arguments
from ossia.harmony.grammar.keywords import Relaxed
from ossia.harmony.validation import Schema, Undecided
from ossia.tools import Toolbox, ToolTarget


@dataclass(frozen=True)
class ReadCall:
    """`message`: the call, addressed by the tool's full name, with arguments that can be read.

    `target`: None if there is no such tool. `wrong`: what the model is told of a call that cannot
    be understood; then `message` is as the model wrote it. `is_misfit`: it can be understood, but
    does not fit the tool's schema. `repaired`: whether the arguments had to be mended.
    """

    message: Message
    target: ToolTarget | None
    wrong: str | None = None
    repaired: bool = False
    is_misfit: bool = False


def read_call(
    toolbox: Toolbox, end: MessageEnd, *, is_ready: bool, checked: Collection[str] = ()
) -> ReadCall:
    """`is_ready`: the parser says that the call is complete. Arguments are read only then, and
    mended only if the model itself closed the call: what was cut may have been meant to go on.
    `checked`: recipients whose calls must fit their tool's schema.
    """
    message = end.message
    target = toolbox.resolve(message.recipient)
    if isinstance(target, UnknownTool):
        return ReadCall(message, None, target.text)
    addressed = replace(message, recipient=target.recipient)
    if not is_ready:
        return ReadCall(addressed, target)
    if target.takes_text:
        return ReadCall(addressed, target, _checked(target, message.text))
    is_closed = end.closed_by in ("<|call|>", "<|end|>")
    read = read_arguments(message.text, target.schema if is_closed else None)
    if read.value is None:
        wrong = f"the arguments are not valid JSON: {read.diagnosis or 'found null'}"
        return ReadCall(addressed, target, wrong)
    arguments = read.text if read.text.strip() else "{}"
    misfit = None
    if target.recipient in checked and target.schema is not None:
        misfit = _misfit(read.value, target.schema)
    if target.check is not None and misfit is None:
        misfit = _checked(target, arguments)
    made = replace(addressed, content=arguments)
    return ReadCall(made, target, misfit, read.repaired, misfit is not None)


def _checked(target: ToolTarget, text: str) -> str | None:
    return None if target.check is None else target.check(text)


def _misfit(value: Any, schema: Schema) -> str | None:
    try:
        found = schema.problems(value)
    except Undecided:
        return None
    return f"the arguments do not fit the tool's schema: {found}" if found else None


@dataclass(frozen=True)
class Grammars:
    """The grammars of an answer's samples: a tool choice binds up to the first call, and what
    follows is free, or the answer could never end. `without_ours` makes the one of a sample that
    may not call our own tools any more; it may take a while.
    """

    first: HarmonyGrammar | None = None
    after_call: HarmonyGrammar | None = None
    without_ours: Callable[[], HarmonyGrammar] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, toolbox: Toolbox, make: Callable[[Toolbox], HarmonyGrammar]) -> Grammars:
        """`make` makes the grammar of a toolbox. Only our own tools' calls are followed by another
        sample.
        """
        first = make(toolbox)
        if not toolbox.builtin:
            return cls(first, first)
        later = toolbox.choice.after_call
        after = first if later == toolbox.choice else make(replace(toolbox, choice=later))
        return cls(first, after, cache(lambda: make(toolbox.without_ours())))

    @property
    def relaxed(self) -> dict[str | None, tuple[Relaxed, ...]]:
        """What sampling is not held to, by recipient; None: of the response format."""
        made = [grammar.relaxed for grammar in (self.first, self.after_call) if grammar]
        return {name: notes for each in made for name, notes in each.items()}

    @property
    def checked(self) -> frozenset[str]:
        """The recipients whose finished calls may fail what was relaxed."""
        return frozenset(
            name
            for name, notes in self.relaxed.items()
            if name is not None and not all(note.is_annotation for note in notes)
        )

    def of_sample(
        self, *, has_called: bool, calls_are_spent: bool = False
    ) -> HarmonyGrammar | None:
        """`calls_are_spent`: our own tools would not be run."""
        if calls_are_spent and has_called and self.without_ours is not None:
            return self.without_ours()
        return self.after_call if has_called else self.first


FREE = Grammars()  # nothing is enforced
