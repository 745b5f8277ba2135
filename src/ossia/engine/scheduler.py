"""Decides what the next batch holds. Plain Python: decisions only, no tensors and no clock.

Requests are ranked once, when they come: by the step at which they came plus AGEING steps for every
unit of priority. So a request of priority 1 is served as if it had come AGEING steps later; a rank
never changes, so nothing can overtake for ever, and who is first in rank always moves: there is no
deadlock and no starvation.

A step goes through the requests by rank. Decoding ones take one token each and their drafts; what
is left of the token budget goes to prompts in chunks, small enough that the step keeps to its
latency target. When pages run out, the prefix cache gives way first, then forks that have not
begun, then the running request of the last rank, which starts again later, often from what the
cache still has of it. A request is admitted when there is room for all it has to compute, or when
nothing else runs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice

from ossia.config import PAGE
from ossia.engine.pages import PageCopy, PageTables, fewest_pages
from ossia.engine.prefix import PrefixCache
from ossia.engine.request import Request

AGEING = 256  # steps
SNAPSHOT_EVERY = 256  # tokens of a prompt; a multiple of PAGE
FEWEST_PROMPT_TOKENS = 32  # of a step, whatever the latency target: prompts always progress


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
        """Whether this reaches the last known token, so that the next one can be drawn; to be asked
        before it is.
        """
        return self.count - self.drafts == self.request.waiting_tokens


@dataclass(frozen=True)
class Step:
    """What to do: first the copies, then one forward pass over the works, those that decode before
    the prompts.
    """

    works: tuple[Work, ...] = ()
    copies: tuple[PageCopy, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(work.count for work in self.works)


class StepTimes:
    """What a step costs, learned from those that were: a time of its own plus so much for every
    token of a prompt.

    Both are moving averages. Where the first is not known, or out of date, the second takes it in:
    the budget that follows is then wrong only until steps of about that size have been seen.
    """

    def __init__(self) -> None:
        self._base = 0.0  # seconds of a step without prompts
        self._per_token: float | None = None

    def observe(self, prompt_tokens: int, seconds: float) -> None:
        if prompt_tokens == 0:
            self._base = seconds if self._base == 0 else self._base + 0.2 * (seconds - self._base)
            return
        cost = max(seconds - self._base, 0.1 * seconds) / prompt_tokens
        if self._per_token is None:
            self._per_token = cost
        weight = 0.3 * min(
            1.0, prompt_tokens / FEWEST_PROMPT_TOKENS
        )  # the last tokens of a prompt tell little
        self._per_token += weight * (cost - self._per_token)

    def prompt_tokens_within(self, seconds: float) -> int | None:
        """None: not known yet, or no end to them."""
        return int((seconds - self._base) / self._per_token) if self._per_token else None


@dataclass
class _Plan:
    """A step in the making."""

    tokens_left: int
    prompt_left: int
    decoding: set[int]  # ids of running requests that decode, as far as their turn is still to come
    has_prompts: bool
    admits: bool = True
    decodes: list[Work] = field(default_factory=list)
    prompts: list[Work] = field(default_factory=list)
    copies: list[PageCopy] = field(default_factory=list)

    def draft_room(self) -> int:
        """Draft tokens that the request whose turn it is may add to its one."""
        return (
            self.tokens_left
            - 1
            - len(self.decoding)
            - (FEWEST_PROMPT_TOKENS if self.has_prompts else 0)
        )

    def prompt_room(self) -> int:
        """Prompt tokens that the request whose turn it is may have. The first in rank always has
        one.
        """
        first = not self.decodes and not self.prompts
        return min(self.prompt_left, max(self.tokens_left - len(self.decoding), 1 if first else 0))


class Scheduler:
    """`latency_target`: seconds that a step may take while sequences decode; None: prompts get all
    the tokens there are. It takes effect once `observe` has told what steps cost. Without a `cache`
    nothing is reused.
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
        self.tables, self.cache = tables, cache
        self.max_batch_tokens, self.max_running = max_batch_tokens, max_running
        self.latency_target = latency_target
        self.waiting: list[Request] = []  # both by rank
        self.running: list[Request] = []
        self.preemptions = 0
        self._ranks: dict[int, tuple[int, int]] = {}
        self._partings: dict[
            int, int
        ] = {}  # up to where a request's tokens were in the cache when it was admitted
        self._arrivals = count()
        self._steps = 0
        self._times = StepTimes()
        self._decode_tokens = 0  # of the last step
        self._flying: set[int] = (
            set()
        )  # requests of the last step that `advance` has not been told of
        self._parents: set[int] = set()  # ids of requests that others wait for
        self._ended: dict[
            int, Request
        ] = {}  # of these the ones that ended since; their pages are still written

    @property
    def most_tokens(self) -> int:
        """Tokens that one request can have in the cache when it is alone."""
        room = []
        for window, pool in self.tables.pools.items():
            if window is None or pool.total < fewest_pages(window):
                room.append(pool.total * PAGE)
        return min(room, default=2**62)

    def max_tokens_of(self, prompt: int) -> int:
        """Tokens that can be generated after a prompt of this length; below 1 the request can never
        run.
        """
        return self.most_tokens - prompt + 1  # the last one is never put into the cache

    def add(self, request: Request) -> None:
        """It must have been checked: `request.limit` is at most `max_tokens_of` its prompt."""
        assert 1 <= request.limit <= self.max_tokens_of(len(request.prompt)), (
            "this request can never run"
        )
        parent = request.parent
        if parent is not None:
            assert (parent.prompt, parent.cache_salt) == (request.prompt, request.cache_salt)
            if parent.id not in self._ranks or parent.computed >= len(parent.prompt):
                request.parent = None  # too late to fork; the prefix cache may have its prompt
            else:
                self._parents.add(parent.id)
        self._ranks[request.id] = self._steps + AGEING * request.priority, next(self._arrivals)
        insort(self.waiting, request, key=self._rank)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self) -> Step:
        """The next step, with its pages allocated. Never empty while there is work."""
        self._land()
        self._steps += 1
        ready = islice((r for r in self.waiting if r.parent is None), self.max_running)
        order = sorted([*self.running, *ready], key=self._rank)
        decoding = {r.id for r in self.running if r.waiting_tokens == 1}
        has_prompts = len(decoding) < len(order)
        plan = _Plan(
            self.max_batch_tokens, self._prompt_budget(bool(decoding)), set(decoding), has_prompts
        )
        for request in order:
            plan.decoding.discard(request.id)
            if plan.tokens_left == 0:
                break
            if request.id in decoding:
                self._decode(request, plan)
            elif plan.prompt_room() > 0:
                self._prefill(request, plan)
        step = Step((*plan.decodes, *plan.prompts), tuple(plan.copies))
        assert step.works or not self.has_work(), "nothing can run although there is work"
        self._flying = {work.request.id for work in step.works}
        self._decode_tokens = sum(work.count for work in plan.decodes)
        return step

    def observe(self, tokens: int, seconds: float) -> None:
        """The last step, of so many tokens, took so long."""
        self._times.observe(tokens - self._decode_tokens, seconds)

    def advance(self, work: Work, accepted: int = 0) -> None:
        """The model has seen this work's tokens, and the first `accepted` of its drafts were right.

        To be called for every work of a step, for requests that have ended too.
        """
        assert 0 <= accepted <= work.drafts
        request, begin = work.request, work.request.computed
        self._flying.discard(request.id)
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
        """It has ended or is not wanted any more; at any time, also between `schedule` and
        `advance`.
        """
        self._remove(self.running if self._runs(request) else self.waiting, request)
        if request.id in self._parents:
            self._parents.discard(request.id)
            children = [r for r in self.waiting if r.parent is request]
            for child in children:  # the first takes its place
                child.parent = None if child is children[0] else children[0]
            self._parents.update(child.id for child in children[:1] if len(children) > 1)
        if request.id in self._flying:
            self._ended[request.id] = request
        else:
            self._give_back(request)
        del self._ranks[request.id]
        self._partings.pop(request.id, None)

    def check(self) -> None:
        """Asserts that no page is lost or wrongly held, and that the lists are in order."""
        self.tables.check({} if self.cache is None else self.cache.check())
        for requests in (self.running, self.waiting):
            ranks = [self._rank(r) for r in requests]
            assert ranks == sorted(set(ranks))
        assert {r.id for r in [*self.running, *self.waiting]} == self._ranks.keys()
        assert len(self.running) <= self.max_running
        holders = (
            {r.id for r in self.running}
            | {r.id for r in self.waiting if r.computed}
            | self._ended.keys()
        )
        assert holders == self.tables.owners, (
            "pages are held for a request that is gone, or missing for one that runs"
        )

    # One step

    def _prompt_budget(self, decoding: bool) -> int:
        if not decoding or self.latency_target is None:
            return self.max_batch_tokens
        tokens = self._times.prompt_tokens_within(self.latency_target)
        return self.max_batch_tokens if tokens is None else max(FEWEST_PROMPT_TOKENS, tokens)

    def _decode(self, request: Request, plan: _Plan) -> None:
        if not self._runs(request):  # any more
            return
        room = self._room(request)
        if room == 0:
            return
        last = request.limit - len(request.generated) - 1  # one token comes from the model itself
        drafts = max(0, min(len(request.draft), last, plan.draft_room(), room - 1))
        del request.draft[drafts:]
        self._grow(request, 1 + drafts, plan)
        plan.decodes.append(Work(request, 1 + drafts, drafts))
        plan.tokens_left -= 1 + drafts

    def _prefill(self, request: Request, plan: _Plan) -> None:
        if not self._runs(request):
            plan.admits = plan.admits and self._admit(request)
            if not plan.admits:
                return
        tokens = min(request.waiting_tokens, plan.prompt_room(), self._room(request))
        if tokens == 0:
            return
        request.draft = []
        self._grow(request, tokens, plan)
        plan.prompts.append(Work(request, tokens))
        plan.tokens_left -= tokens
        plan.prompt_left -= tokens

    def _room(self, request: Request) -> int:
        """Tokens that there are pages for; makes some if there are none. 0: it had to give its own
        back.

        Those that give way come after it in rank, so none of them is in the step yet.
        """
        while (room := self.tables.reach(request.id, request.computed) - request.computed) < 1:
            fork = next((r for r in reversed(self.waiting) if r.computed), None)
            if fork is not None:
                self._take_pages(fork)
                continue
            last = self.running[-1]
            self._preempt(last)
            if last is request:
                return 0
        return room

    def _grow(self, request: Request, tokens: int, plan: _Plan) -> None:
        begin, end = request.computed, request.computed + tokens
        if self.cache is not None:
            for window in self.tables.pools:
                self.cache.make_free(window, self.tables.missing(request.id, window, begin, end))
        plan.copies += self.tables.grow(request.id, begin, end)

    def _admit(self, request: Request) -> bool:
        """Let it run if there is room beside those before it in rank; the others are preempted if
        need be.
        """
        found = 0
        if request.computed == 0 and self.cache is not None:
            tokens = request.tokens(0, request.num_tokens)
            found, self._partings[request.id] = self.cache.adopt(
                request.id, request.cache_salt, tokens
            )
            request.computed = found
        later = [r for r in self.running if self._rank(r) > self._rank(request)]
        fits = self._fits(request, gone=later)
        while fits and not self._fits(request):
            if later:
                self._preempt(later.pop())
            else:  # pages that they shared did not come free
                fits = False
        if not fits:
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

    def _fits(self, request: Request, gone: Sequence[Request] = ()) -> bool:
        """Whether, without those `gone`, the running requests and this one can compute all their
        known tokens and a page more each. When nothing else runs it need not: what it lacks will be
        made, and it has been checked.
        """
        ids = {r.id for r in gone}
        stay = [r for r in self.running if r.id not in ids]
        if not stay:
            return True
        if len(stay) >= self.max_running:
            return False
        for window, pool in self.tables.pools.items():
            freed = sum(len(self.tables.run(r.id, window).pages) for r in gone)
            if sum(self._owed(r, window) for r in [*stay, request]) > pool.available + freed:
                return False
        return True

    def _owed(self, request: Request, window: int | None) -> int:
        end = min(request.num_tokens + PAGE, len(request.prompt) + request.limit - 1)
        if window is not None:  # pages come free as it goes on
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
        """The last step is over, whether `advance` was told so or not."""
        self._flying.clear()
        for request in self._ended.values():
            self._give_back(request)
        self._ended.clear()

    def _remember(self, request: Request) -> None:
        """Leave what it has computed to the prefix cache, up to the last full page."""
        end = min(request.computed, request.num_tokens) // PAGE * PAGE
        if self.cache is not None:
            self.cache.insert(request.id, request.cache_salt, request.tokens(0, end))

    def _remember_prompt(self, request: Request, begin: int) -> None:
        """Leave the part of its prompt that has just been computed, from `begin` on, to the prefix
        cache.

        Snapshots are taken every so often, at its last full page, and where it parted from what was
        known: what two prompts begin with, a third may too.
        """
        size, end = len(request.prompt), request.computed
        if self.cache is not None:
            last, parting = (size - 1) // PAGE * PAGE, self._partings.get(request.id, 0)
            for p in sorted(
                {*range(SNAPSHOT_EVERY, size, SNAPSHOT_EVERY), last, min(parting, last)}
            ):
                if begin < p <= end:
                    self.cache.insert(request.id, request.cache_salt, request.prompt[:p])

    def _release_children(self, request: Request, begin: int) -> None:
        """Its prompt is computed, so forks can begin: with its pages, if the prompt's end has just
        been reached; else, as after a preemption, windows may have moved on, and the prefix cache
        has to do.
        """
        size = len(request.prompt)
        self._parents.discard(request.id)
        for child in [r for r in self.waiting if r.parent is request]:
            child.parent = None
            if (
                begin < size and request.computed == size > 1
            ):  # all but the last token, whose logits it needs
                self.tables.adopt(child.id, self.tables.needed(request.id, size - 1))
                child.computed = size - 1

    def _rank(self, request: Request) -> tuple[int, int]:
        return self._ranks[request.id]

    def _runs(self, request: Request) -> bool:
        return self._index(self.running, request) is not None

    def _index(self, requests: list[Request], request: Request) -> int | None:
        at = bisect_left(requests, self._rank(request), key=self._rank)
        return at if at < len(requests) and requests[at] is request else None

    def _remove(self, requests: list[Request], request: Request) -> None:
        at = self._index(requests, request)
        assert at is not None
        del requests[at]
