"""Speculative decoding without a draft model: guesses from the text so far, checked in one batch.
Plain Python; knows token ids and seconds, no tensors and no model.

A guess is a point mass, so the rule of Leviathan et al. (arXiv 2211.17192), accept with probability
min(1, p/q), else draw from the rest of p, comes down to: draw the token as always, with the
request's own uniform number for that place; while it equals the guess, the model's next row is
already there. So an answer has exactly the tokens that it would have without speculation, greedy or
sampled; guesses decide only how many come from one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_GUESSES = 8


class NgramProposer:
    """Guesses that the last tokens are followed by the same tokens as last time (prompt lookup).

    The longest suffix of `most` to `least` tokens that occurred before decides, at its latest
    place. A token costs the same however long the text is: each n-gram's latest place is kept,
    about 0.3 KB a token.
    """

    def __init__(self, tokens: Sequence[int] = (), *, least: int = 2, most: int = 4) -> None:
        assert 1 <= least <= most
        self._sizes = range(least, most + 1)
        self._tokens: list[int] = []
        # n-gram -> the place of the token after its latest occurrence
        self._followed: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """`token` has been taken. Never call it with a guess."""
        end = len(self._tokens)
        for n in self._sizes:
            if n <= end:
                self._followed[tuple(self._tokens[end - n :])] = end
        self._tokens.append(token)

    def propose(self, count: int) -> list[int]:
        """`count` guesses or none. After the end of the text they continue themselves, so a loop is
        guessed as a loop.
        """
        end = len(self._tokens)
        for n in reversed(self._sizes):
            if n > end:
                continue
            place = self._followed.get(tuple(self._tokens[end - n :]))
            if place is not None:
                return self._from(place, count)
        return []

    def _from(self, place: int, count: int) -> list[int]:
        end = len(self._tokens)
        guesses: list[int] = []
        for at in range(place, place + count):
            guesses.append(self._tokens[at] if at < end else guesses[at - end])
        return guesses


def verify(
    guesses: Sequence[Sequence[int]], draw: Callable[[list[tuple[int, int]]], Sequence[int | None]]
) -> list[int]:
    """How many guesses of each request held.

    The model has run over every request's last token and its guesses; row i of a request follows
    its i-th guess. Rows are drawn in rounds: `draw` gets (request, row) for all requests whose
    guesses held so far, takes one token for each just as without speculation (penalties, random
    number, constraint: all as after the token before), and returns it, or None if the request has
    ended. A row is drawn only once everything before it is certain; so masks of a constraint are
    made one by one, and a request whose mask would be late should not get guesses.
    """
    held = [0] * len(guesses)
    going = list(range(len(guesses)))
    row = 0
    while going:
        tokens = draw([(n, row) for n in going])
        right = []
        for n, token in zip(going, tokens, strict=True):
            if row < len(guesses[n]) and token == guesses[n][row]:
                right.append(n)
        row += 1
        for n in right:
            held[n] = row
        going = right
    return held


@dataclass
class _Cost:
    """The cost of steps with a certain number of requests."""

    plain: float  # seconds of a step without guesses
    slope: float  # relative cost of each additional guess
    plain_steps: int = 0
    since_plain: int = 0


class Speculation:
    """How many guesses a request may make, from their cost and how often they hold. Same inputs,
    same decisions.

    Everything is accounted in plain steps: a step with guesses gains the tokens that it gave
    beyond one a request, less the time that it took beyond a plain step. Guessing needs credit for
    the case that no guess holds. Credit comes from gains and from `ALLOWED` for every step, so that
    speculation never loses more than that share of the time, and at most `START` plain steps more
    over the engine's life; while guesses do not pay, they are tried again after waits that double.
    """

    ALLOWED = 0.02
    START = 1.0  # credit at the beginning, in plain steps
    MOST = 8.0  # credit
    SLOPE = 0.6  # before it is measured, for one request: another token touches other experts
    REFRESH = 32  # steps with guesses until a plain one measures its cost again
    LONGEST_WAIT = 512

    def __init__(self) -> None:
        self._costs: dict[int, _Cost] = {}
        self._held = 1.0  # guesses that held, and guesses that failed; old ones count less
        self._failed = 1.0
        self._credit = self.START
        self._wait = 4
        self._pause = 0

    def plan(self, requests: int) -> int:
        """Guesses for each of so many decoding requests, 0 to 8; ask once a step."""
        cost = self._costs.get(requests)
        if cost is None or cost.plain_steps < 3 or cost.since_plain >= self.REFRESH:
            return 0
        best = max(range(MAX_GUESSES + 1), key=lambda k: (self._rate(cost, requests, k), -k))
        if best == 0:
            best = 1 if self._pause == 0 else 0
        while best and best * requests * cost.slope > self._credit:
            best -= 1
        return best

    def observe(self, outcomes: Sequence[tuple[int, int]], seconds: float) -> None:
        """A step that only decoded took `seconds`. `outcomes`: for each request, how many guesses
        it made and how many of them held.
        """
        requests = len(outcomes)
        guessed = sum(guesses for guesses, _ in outcomes)
        cost = self._costs.setdefault(requests, _Cost(seconds, self.SLOPE / max(1, requests)))
        self._pause = max(0, self._pause - 1)
        self._credit += self.ALLOWED
        if guessed:
            self._account(cost, outcomes, guessed, seconds)
        else:
            # a slow step, during which something else ran, tells little
            cost.plain += (min(seconds, 1.5 * cost.plain) - cost.plain) * 0.2
            cost.plain_steps += 1
            cost.since_plain = 0
        self._credit = min(self._credit, self.MOST)

    def _account(
        self, cost: _Cost, outcomes: Sequence[tuple[int, int]], guessed: int, seconds: float
    ) -> None:
        held = sum(right for _, right in outcomes)
        failed = sum(right < guesses for guesses, right in outcomes)
        self._held = 0.9 * self._held + held
        self._failed = 0.9 * self._failed + failed
        relative = seconds / cost.plain if cost.plain > 0 else 1.0
        cost.slope += (max(0.0, (relative - 1) / guessed) - cost.slope) * 0.2
        cost.since_plain += 1
        gain = held / len(outcomes) - (relative - 1)
        self._credit += gain
        self._wait = 4 if gain > 0 else min(2 * self._wait, self.LONGEST_WAIT)
        if gain <= 0:
            self._pause = self._wait

    def _rate(self, cost: _Cost, requests: int, k: int) -> float:
        """Tokens of each request in the time of a plain step, with k guesses that all hold with the
        same chance.
        """
        chance = self._held / (self._held + self._failed)
        expected = sum(chance**i for i in range(1, k + 1))
        return (1 + expected) / (1 + cost.slope * k * requests)
