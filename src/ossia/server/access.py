"""Who asks, and what they may: API keys and limits. Stub to be filled."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request


@dataclass(eq=False)
class Caller:
    """A key's owner, or everybody together if there are no keys."""

    name: str = ""

    def spend(self, tokens: int) -> None:
        """Count tokens against the limit per minute."""


NOBODY = Caller()


def caller_of(request: Request) -> Caller:
    """Set by the gate in front of every route."""
    found: Caller = getattr(request.state, "caller", NOBODY)
    return found
