"""Decides on the next batch. Plain Python: decisions only, no tensors and no clock.

Callers take turns. A caller's own requests stand in a line, by the step of their arrival plus
AGEING steps for every unit of priority: one of priority 1 is served as if it had arrived AGEING
steps later. The first of every line come before the second of any, and so on (`turns.py`); whoever
sends a thousand requests at once waits behind themselves only. With one caller, rank is the place
in the line. The request that is first in rank always moves, and no rank gets worse for what other
callers do: there is no deadlock and no starvation. Batch work alone may starve: its ranks are all
behind those of other requests.

A step goes through the requests by rank. Decoding ones take one token each and their drafts; the
rest of the token budget goes to prompts in chunks, small enough that the step keeps to its latency
target, and in equal shares for the callers that have prompts. When pages run out, the prefix cache
gives way first, then forks that have not begun, then the running request of the last rank, which
starts again later, often from pages of its own that are still in the cache. A request is admitted
when there is room for everything it has to compute, or when nothing else runs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from ossia.config import PAGE
from ossia.engine.pages import PageCopy, PageTables, fewest_pages
from ossia.engine.prefix import PrefixCache
from ossia.engine.request import Request
from ossia.engine.turns import Turns, shares

SNAPSHOT_EVERY = 256  # tokens of a prompt; a multiple of PAGE
FEWEST_PROMPT_TOKENS = 32  # in a step, whatever the latency target: prompts always progress


@dataclass(frozen=True)
class Work:
    """`count` tokens of a request, from position `request.computed` on; the last `drafts` of them
    are guesses.
    """

    request: Request
    count: int
    drafts: int = 0

    @property
    def samples(self) -> bool:
        """Whether this reaches the last known token, so that the next one can be drawn. Ask before
        it is drawn.
        """
        return self.count - self.drafts == self.request.waiting_tokens


@dataclass(frozen=True)
class Step:
    """First the copies, then one forward pass over the scheduled work, decoding before prompts."""

    scheduled: tuple[Work, ...] = ()
    copies: tuple[PageCopy, ...] = ()
    decodes: int = 0  # how many of the scheduled go on with an answer

    @property
    def tokens(self) -> int:
        return sum(work.count for work in self.scheduled)

    @property
    def prompt_tokens(self) -> int:
        return sum(work.count for work in self.scheduled[self.decodes :])


class StepTimes:
    """The cost of a step, learned from past steps: a base time plus a time for every prompt token.

    Both are moving averages. If the base is not known, or out of date, the time per token absorbs
    it: the budget that follows is then wrong only until steps of about that size have been seen.
    """

    def __init__(self) -> None:
        self.base = 0.0  # seconds of a step without prompts
        self._per_token: float | None = None  # seconds

    def observe(self, prompt_tokens: int, seconds: float) -> None:
        if prompt_tokens == 0:
            if self.base == 0:
                self.base = seconds
            else:
                self.base += 0.2 * (seconds - self.base)
            return
        cost = max(seconds - self.base, 0.1 * seconds) / prompt_tokens
        if self._per_token is None:
            self._per_token = cost
        # the last few tokens of a prompt tell little
        weight = 0.3 * min(1.0, prompt_tokens / FEWEST_PROMPT_TOKENS)
        self._per_token += weight * (cost - self._per_token)

    def prompt_tokens_within(self, seconds: float) -> int | None:
        """How many prompt tokens a step of this length can take; None: not known yet, or no
        limit.
        """
        if not self._per_token:
            return None
        return int((seconds - self.base) / self._per_token)


@dataclass
class _Plan:
    """A step that is being put together."""

    tokens_left: int
    prompt_left: int
    # ids of the running requests that decode and have not had their turn, and of them batch work
    decoding: set[int]
    batch_decoding: set[int]
    has_prompts: bool
    shares: dict[str, int]  # prompt tokens by caller, if there are several
    admits: bool = True
    decodes: list[Work] = field(default_factory=list)
    prompts: list[Work] = field(default_factory=list)
    copies: list[PageCopy] = field(default_factory=list)

    def take_turn(self, request: Request) -> None:
        self.decoding.discard(request.id)
        self.batch_decoding.discard(request.id)

    def _reserved(self, request: Request) -> int:
        """Tokens for those that decode and come later; nothing is kept from others for batch
        work.
        """
        later = len(self.decoding)
        return later if request.is_batch else later - len(self.batch_decoding)

    def draft_room(self, request: Request) -> int:
        """Draft tokens that the request whose turn it is may add to its one token."""
        reserved = 1 + self._reserved(request)
        if self.has_prompts:
            reserved += FEWEST_PROMPT_TOKENS
        return self.tokens_left - reserved

    def prompt_room(self, request: Request) -> int:
        """Prompt tokens that the request whose turn it is may have. The first in rank always has
        one.
        """
        is_first = not self.decodes and not self.prompts
        least = 1 if is_first else 0
        unreserved = self.tokens_left - self._reserved(request)
        share = self.shares.get(request.caller, self.prompt_left)
        return min(self.prompt_left, max(min(unreserved, share), least))

    def take_prompt(self, request: Request, tokens: int) -> None:
        self.prompts.append(Work(request, tokens))
        self.tokens_left -= tokens
        self.prompt_left -= tokens
        if request.caller in self.shares:
            self.shares[request.caller] -= tokens


class Scheduler:
    """Ranks the requests and decides on each step.

    `max_batch_tokens`: tokens of one step. `max_running`: requests that run at the same time.
    `latency_target`: seconds that a step may take while sequences decode; None: prompts get all
    remaining tokens. It takes effect once `observe` has been told how long steps take. Without a
    `cache` nothing is reused.
    """

    def __init__(
        self,
        tables: PageTables,
        max_batch_tokens: int,
        max_running: int,
        *,
        cache: PrefixCache | None = None,
        latency_target: float | None = 0.25,
    ) -> None:
        self.tables = tables
        self.cache = cache
        self.max_batch_tokens = max_batch_tokens
        self.max_running = max_running
        self.latency_target = latency_target
        self.waiting: list[Request] = []  # both by rank
        self.running: list[Request] = []
        self.preemptions = 0
        # All by the id of a request:
        self._cached_prefix_lengths: dict[int, int] = {}  # in tokens, when it was admitted
        self._parents: set[int] = set()  # others wait for its prompt
        self._in_flight: set[int] = set()  # in the last step, and `advance` has not been called
        self._ended: dict[int, Request] = {}  # in flight, but ended; its pages are still written
        self._turns = Turns()
        self._rank = self._turns.rank
        self._steps = 0
        self._times = StepTimes()

    @property
    def most_tokens(self) -> int:
        """Tokens that one request can have in the cache when it is alone."""
        room = []
        for window, pool in self.tables.pools.items():
            if window is None or pool.total < fewest_pages(window):
                room.append(pool.total * PAGE)
        return min(room, default=2**62)

    def max_tokens_of(self, prompt: int) -> int:
        """Tokens that can be generated after a prompt of this length; if less than 1, the request
        can never run.
        """
        return self.most_tokens - prompt + 1  # the last one is never put into the cache

    def add(self, request: Request) -> None:
        """Queue a request. It must have been checked: `request.limit` is at most `max_tokens_of`
        its prompt.
        """
        most = self.max_tokens_of(len(request.prompt))
        assert 1 <= request.limit <= most, "this request can never run"
        parent = request.parent
        if parent is not None:
            assert (parent.prompt, parent.cache_salt) == (request.prompt, request.cache_salt)
            if parent not in self._turns or parent.computed >= len(parent.prompt):
                request.parent = None  # too late to fork; the prefix cache may have its prompt
            else:
                self._parents.add(parent.id)
        self._turns.enter(request, self._steps)
        insort(self.waiting, request, key=self._rank)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self) -> Step:
        """The next step, with its pages allocated. Never empty while there is work."""
        self._land()
        self._steps += 1
        if self._turns.settle(self._steps):
            for requests in (self.waiting, self.running):
                requests.sort(key=self._rank)
        ready = islice((r for r in self.waiting if r.parent is None), self.max_running)
        order = sorted([*self.running, *ready], key=self._rank)
        decoding = {r.id for r in self.running if r.waiting_tokens == 1}
        batch = {r.id for r in self.running if r.is_batch and r.id in decoding}
        has_chats = any(not r.is_batch for r in order)
        # no chat's prompt is cut short for the sake of batch work that decodes
        budget = self._prompt_budget(len(decoding) > len(batch) if has_chats else bool(decoding))
        plan = _Plan(
            tokens_left=self.max_batch_tokens,
            prompt_left=budget,
            decoding=set(decoding),
            batch_decoding=set(batch),
            has_prompts=len(decoding) < len(order),
            shares=self._shares(order, decoding, len(decoding) - len(batch), budget),
        )
        for request in order:
            plan.take_turn(request)
            if plan.tokens_left == 0:
                break
            if request.id in decoding:
                self._decode(request, plan)
            elif plan.prompt_room(request) > 0:
                self._prefill(request, plan)
        step = Step((*plan.decodes, *plan.prompts), tuple(plan.copies), len(plan.decodes))
        assert step.scheduled or not self.has_work(), "nothing can run although there is work"
        self._in_flight = {work.request.id for work in step.scheduled}
        return step

    def observe(self, step: Step, seconds: float) -> None:
        """Report how long a step took."""
        self._times.observe(step.prompt_tokens, seconds)

    def advance(self, work: Work, accepted: int = 0) -> None:
        """The model has seen this work's tokens, and the first `accepted` of its drafts were right.

        To be called for all work of a step, also that of requests that have ended.
        """
        assert 0 <= accepted <= work.drafts
        request = work.request
        begin = request.computed
        self._in_flight.discard(request.id)
        request.computed += work.count - work.drafts + accepted
        request.draft = []
        if self._ended.pop(request.id, None):
            self._give_back(request)
            return
        if begin < len(request.prompt):
            self._remember_prompt(request, begin)
        if request.id in self._parents and request.computed >= len(request.prompt):
            self._release_children(request, begin)
        self.tables.forget_behind_windows(request.id, request.computed)

    def finish(self, request: Request) -> None:
        """The request has ended or was aborted. Call it at any time, also between `schedule` and
        `advance`.
        """
        self._remove(self.running if self._runs(request) else self.waiting, request)
        if request.id in self._parents:
            self._replace_parent(request)
        if request.id in self._in_flight:
            self._ended[request.id] = request
        else:
            self._give_back(request)
        self._turns.leave(request)
        self._cached_prefix_lengths.pop(request.id, None)

    def _replace_parent(self, parent: Request) -> None:
        """The first of the requests that wait for `parent` computes the prompt instead."""
        self._parents.discard(parent.id)
        children = [r for r in self.waiting if r.parent is parent]
        if not children:
            return
        first, *others = children
        first.parent = None
        for child in others:
            child.parent = first
        if others:
            self._parents.add(first.id)

    def check(self) -> None:
        """Asserts that no page is lost or wrongly held, and that the lists are in order."""
        self.tables.check({} if self.cache is None else self.cache.check())
        for requests in (self.running, self.waiting):
            ranks = [self._rank(r) for r in requests]
            assert ranks == sorted(set(ranks))
        assert all(r in self._turns for r in [*self.running, *self.waiting])
        assert len(self.running) + len(self.waiting) == len(self._turns)
        assert len(self.running) <= self.max_running
        running = {r.id for r in self.running}
        forks = {r.id for r in self.waiting if r.computed}
        assert running | forks | self._ended.keys() == self.tables.owners, (
            "pages are held for a request that is gone, or missing for one that runs"
        )

    # One step

    def _prompt_budget(self, decoding: bool) -> int:
        if not decoding or self.latency_target is None:
            return self.max_batch_tokens
        target = self.latency_target
        if self._turns.are_several:  # no caller's answers keep another's prompt from half of a step
            target = max(target, 2 * self._times.base)
        tokens = self._times.prompt_tokens_within(target)
        if tokens is None:
            return self.max_batch_tokens
        return max(FEWEST_PROMPT_TOKENS, tokens)

    def _shares(
        self, order: Sequence[Request], decoding: set[int], chats: int, budget: int
    ) -> dict[str, int]:
        """Of the prompt tokens, by caller; empty if there is only one. Those that cannot run in
        this step, because there are enough before them, have none. Batch work has what others
        leave, and beside them never more than a step that keeps to its time. `chats`: how many of
        those that decode are no batch work.
        """
        if not self._turns.are_several:
            return {}
        able = [each for each in order[: self.max_running] if each.id not in decoding]
        found = shares(_wanted(able, is_batch=False), min(budget, self.max_batch_tokens - chats))
        if all(each.is_batch for each in order):
            left = budget
        else:
            left = min(budget, self._prompt_budget(decoding=True)) - sum(found.values())
        room = min(left, self.max_batch_tokens - sum(found.values()) - len(decoding))
        return found | shares(_wanted(able, is_batch=True), max(0, room))

    def _decode(self, request: Request, plan: _Plan) -> None:
        if not self._runs(request):  # it was preempted in this step
            return
        room = self._room(request)
        if room == 0:
            return
        last = request.limit - len(request.generated) - 1  # one token comes from the model itself
        most = min(last, plan.draft_room(request), room - 1)
        drafts = max(0, min(len(request.draft), most))
        del request.draft[drafts:]
        self._grow(request, 1 + drafts, plan)
        plan.decodes.append(Work(request, 1 + drafts, drafts))
        plan.tokens_left -= 1 + drafts

    def _prefill(self, request: Request, plan: _Plan) -> None:
        if not self._runs(request):
            plan.admits = plan.admits and self._admit(request)
            if not plan.admits:
                return
        most = plan.prompt_room(request)
        tokens = min(request.waiting_tokens, most, self._room(request))
        if tokens == 0:
            return
        request.draft = []
        self._grow(request, tokens, plan)
        plan.take_prompt(request, tokens)

    def _room(self, request: Request) -> int:
        """Tokens that there are pages for; takes pages from others if there are none. 0: it had to
        give up its own.

        The requests that give way come after it in rank, so none of them is in the step yet.
        """
        while True:
            room = self.tables.reach(request.id, request.computed) - request.computed
            if room >= 1:
                return room
            fork = next((r for r in reversed(self.waiting) if r.computed), None)
            if fork is not None:
                self._take_pages(fork)
                continue
            last = self.running[-1]
            self._preempt(last)
            if last is request:
                return 0

    def _grow(self, request: Request, tokens: int, plan: _Plan) -> None:
        begin = request.computed
        end = begin + tokens
        if self.cache is not None:
            for window in self.tables.pools:
                self.cache.make_free(window, self.tables.missing(request.id, window, begin, end))
        plan.copies += self.tables.grow(request.id, begin, end)

    def _admit(self, request: Request) -> bool:
        """Let it run if there is room for it besides the requests before it in rank; later ones are
        preempted if necessary.
        """
        found = self._adopt(request) if request.computed == 0 else 0
        if not self._make_room(request):
            if found:
                self._take_pages(request)
            return False
        if found and self.cache is not None:
            self.cache.count_hit(found)
        if not request.generated:
            request.cached = min(request.computed, len(request.prompt))
        self._remove(self.waiting, request)
        insort(self.running, request, key=self._rank)
        return True

    def _adopt(self, request: Request) -> int:
        """Give the request its tokens' pages from the prefix cache. Returns how many tokens."""
        if self.cache is None:
            return 0
        tokens = request.tokens(0, request.num_tokens)
        found, known = self.cache.adopt(request.id, request.cache_salt, tokens)
        self._cached_prefix_lengths[request.id] = known
        request.computed = found
        return found

    def _make_room(self, request: Request) -> bool:
        """Preempt requests after this one in rank until it fits; none if that would not do."""
        later = [r for r in self.running if self._rank(r) > self._rank(request)]
        if not self._fits(request, gone=later):
            return False
        while not self._fits(request):
            if not later:  # the pages that they shared did not come free
                return False
            self._preempt(later.pop())
        return True

    def _fits(self, request: Request, gone: Sequence[Request] = ()) -> bool:
        """Whether, without the requests `gone`, the running ones and this one can compute all their
        known tokens and one page more each. If nothing else runs, it always fits: pages will be
        made free, and `add` has checked that there are enough.
        """
        ids = {r.id for r in gone}
        stay = [r for r in self.running if r.id not in ids]
        if not stay:
            return True
        if len(stay) >= self.max_running:
            return False
        for window, pool in self.tables.pools.items():
            runs = [self.tables.run(r.id, window) for r in gone]
            freed = sum(len(run.pages) for run in runs)
            owed = sum(self._owed(r, window) for r in [*stay, request])
            if owed > pool.available + freed:
                return False
        return True

    def _owed(self, request: Request, window: int | None) -> int:
        """Pages that the request still needs for its known tokens and one page more."""
        end = min(request.num_tokens + PAGE, len(request.prompt) + request.limit - 1)
        if window is not None:  # pages come free as it moves on
            end = min(end, request.computed + self.max_batch_tokens)
        return self.tables.missing(request.id, window, request.computed, end)

    # Giving back and sharing

    def _preempt(self, request: Request) -> None:
        self._remove(self.running, request)
        self._remember(request)
        self._take_pages(request)
        insort(self.waiting, request, key=self._rank)
        self.preemptions += 1

    def _take_pages(self, request: Request) -> None:
        self.tables.release(request.id)
        request.computed = 0

    def _give_back(self, request: Request) -> None:
        if request.computed:
            self._remember(request)
        self.tables.release(request.id)

    def _land(self) -> None:
        """The last step is over, even if `advance` was not called for all of it."""
        self._in_flight.clear()
        for request in self._ended.values():
            self._give_back(request)
        self._ended.clear()

    def _remember(self, request: Request) -> None:
        """Leave its computed tokens to the prefix cache, up to the last full page."""
        end = min(request.computed, request.num_tokens) // PAGE * PAGE
        if self.cache is not None:
            self.cache.insert(request.id, request.cache_salt, request.tokens(0, end))

    def _remember_prompt(self, request: Request, begin: int) -> None:
        """Leave the part of its prompt that has just been computed, from `begin` on, to the prefix
        cache.

        Snapshots are taken every SNAPSHOT_EVERY tokens, at its last full page, and where it left
        the tree of known prefixes: a beginning that two prompts share, a third may share too.
        """
        if self.cache is None:
            return
        size = len(request.prompt)
        last_page = (size - 1) // PAGE * PAGE
        known = self._cached_prefix_lengths.get(request.id, 0)
        places = set(range(SNAPSHOT_EVERY, size, SNAPSHOT_EVERY))
        places |= {last_page, min(known, last_page)}
        for place in sorted(places):
            if begin < place <= request.computed:
                self.cache.insert(request.id, request.cache_salt, request.prompt[:place])

    def _release_children(self, request: Request, begin: int) -> None:
        """Its prompt is computed, so forks can begin. They get its pages if the prompt's end has
        just been reached; otherwise, as after a preemption, its windows may have moved on, and the
        forks use the prefix cache.
        """
        size = len(request.prompt)
        just_reached = begin < size and request.computed == size
        self._parents.discard(request.id)
        for child in [r for r in self.waiting if r.parent is request]:
            child.parent = None
            if just_reached and size > 1:
                # all but the last token, whose logits the fork needs
                self.tables.adopt(child.id, self.tables.needed(request.id, size - 1))
                child.computed = size - 1

    def _runs(self, request: Request) -> bool:
        return self._index(self.running, request) is not None

    def _index(self, requests: list[Request], request: Request) -> int | None:
        at = bisect_left(requests, self._rank(request), key=self._rank)
        if at < len(requests) and requests[at] is request:
            return at
        return None

    def _remove(self, requests: list[Request], request: Request) -> None:
        at = self._index(requests, request)
        assert at is not None
        del requests[at]


def _wanted(requests: Sequence[Request], *, is_batch: bool) -> dict[str, int]:
    """Prompt tokens by caller."""
    wanted: dict[str, int] = {}
    for request in requests:
        if request.is_batch == is_batch:
            wanted[request.caller] = wanted.get(request.caller, 0) + request.waiting_tokens
    return wanted
