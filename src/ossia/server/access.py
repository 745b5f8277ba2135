"""Callers and what they may do: API keys, and how much one caller may have at a time and in a
minute. What is counted are samples: each choice of `n`, each prompt of a batch, each of `best_of`.

Knows secrets (as digests) and headers; nothing of routes. `gate.py` asks it about every request.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from cachetools import LRUCache
from starlette.requests import Request

from ossia.server.accounts.tally import DayTokens, Tally, Used
from ossia.server.accounts.users import PREFIX, ProxyUsers
from ossia.server.settings import ApiKey, Limits, Settings
from ossia.server.wire.errors import ApiError
from ossia.turn.events import Usage

MINUTE = 60.0  # seconds
RETRY = 2  # seconds until it is worth asking again where nobody can know
MOST_USERS = 10_000  # of a proxy, whose limits per minute are remembered
NO_KEY = "-"  # in metrics: everybody, where there are no keys
ALL_USERS = "users"  # in metrics: everybody whom a proxy has let in


class Allowance:
    """So much a minute; None: any amount. What is used is counted afterwards, so it may be
    overdrawn; the debt is paid back at the rate of the limit, and at most a minute's worth is saved
    up.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self.clock = clock
        self._left = float(per_minute or 0)
        self.unwritten = 0.0  # spent since it was last taken from here
        self._at = clock()

    @property
    def left(self) -> float:
        """Below 0 if it was overdrawn. Meaningless without a limit."""
        now = self.clock()
        most = self.per_minute or 0
        earned = (now - self._at) * most / MINUTE
        self._left = min(most, self._left + earned)
        self._at = now
        return self._left

    def spend(self, amount: float) -> None:
        self._left = self.left - amount
        self.unwritten += amount

    def told(self, spent: float) -> None:
        """What has been spent here and elsewhere, less what was earned since; without what is
        not written yet.
        """
        self._at = self.clock()
        self._left = (self.per_minute or 0) - spent - self.unwritten

    @property
    def is_used_up(self) -> bool:
        return self.per_minute is not None and self.left <= 0

    def seconds_until(self, amount: float) -> int:
        """Until there is so much."""
        rate = (self.per_minute or 0) / MINUTE
        return max(0, math.ceil((amount - self.left) / rate))


@dataclass(frozen=True)
class Whose:
    """Whose turn it is: callers take turns, and batch work is behind all else."""

    caller: str = ""
    is_batch: bool = False


@dataclass(eq=False)
class Caller:
    """The owner of a key, or everybody together if there are no keys. `group`: what all who are
    counted together in metrics have used, if this one is not counted alone.
    """

    name: str = ""
    limits: Limits = field(default_factory=Limits)
    running: int = 0  # samples being answered
    clock: Callable[[], float] = time.monotonic
    group: Used | None = None

    def __post_init__(self) -> None:
        self.forgotten = 0.0  # when all that was its was deleted, on the store's clock
        self.elsewhere = 0  # samples being answered by other servers
        self.running_written = 0  # as other servers know it
        self.tally = Tally()
        self.today = DayTokens(self.limits.tokens_per_day)
        self.tokens = Allowance(self.limits.tokens_per_minute, self.clock)
        self.tool_seconds = Allowance(self.limits.tool_seconds_per_minute, self.clock)
        self.pages = Allowance(self.limits.pages_per_minute, self.clock)

    @property
    def _is_forgotten(self) -> bool:
        """Whether the caller was, since the request began that is being answered here."""
        begun = request_begun()
        return begun is not None and begun < self.forgotten

    def spend(self, usage: Usage) -> None:
        """Count tokens, against the limits too."""
        if self._is_forgotten:
            return
        self.tally.spent_since(request_begun())
        tokens = usage.prompt + usage.completion
        self.tokens.spend(tokens)
        self.today.spend(tokens)
        self.tally.used.add(usage)
        if self.group is not None:
            self.group.add(usage)

    def count_call(self) -> None:
        """Of a tool."""
        if self._is_forgotten:
            return
        self.tally.spent_since(request_begun())
        self.tally.used.calls += 1
        if self.group is not None:
            self.group.calls += 1

    @property
    def tokens_left(self) -> float:
        return self.tokens.left

    @property
    def is_batch(self) -> bool:
        return self.limits.priority == "batch"

    def refusal(self, more: int = 1, *, here: bool = False) -> ApiError | None:
        """Why so many more samples cannot be taken now. `here`: by what this server answers alone,
        as what others do may have ended since it was told.
        """
        most = self.limits.concurrent
        rate = self.limits.tokens_per_minute
        running = self.running + (0 if here else self.elsewhere)
        if most is not None and running + more > most:
            text = f"{running} of your samples are being answered; the limit is {most}"
            return _too_many(text, "concurrency_limit_exceeded", RETRY)
        if self.today.is_used_up:
            return self._no_quota()
        if rate is not None and self.tokens_left < 1:
            text = f"the limit of {rate} tokens per minute is used up"
            return _too_many(text, "rate_limit_exceeded", self.tokens.seconds_until(1))
        return None

    def _no_quota(self) -> ApiError:
        """Clients that try again by themselves should not."""
        text = (
            f"you exceeded your current quota of {self.today.per_day} tokens per day; "
            "it begins anew at midnight UTC"
        )
        refusal = _too_many(text, "insufficient_quota", self.today.seconds_left)
        refusal.headers["x-should-retry"] = "false"
        return refusal

    def salted(self, salt: str = "") -> str:
        """The salt for the prefix cache: only the caller itself finds again what it has asked.
        Otherwise time, and the number of cached tokens, would tell others what was asked.
        """
        return f"{self.name}\0{salt}" if self.name else salt

    def headers(self) -> dict[str, str]:
        """The state of the limits, under OpenAI's names; "requests" are those at the same time."""
        found: dict[str, str] = {}
        if (most := self.limits.concurrent) is not None:
            found["x-ratelimit-limit-requests"] = str(most)
            found["x-ratelimit-remaining-requests"] = str(
                max(0, most - self.running - self.elsewhere)
            )
        if (rate := self.limits.tokens_per_minute) is not None:
            found["x-ratelimit-limit-tokens"] = str(rate)
            found["x-ratelimit-remaining-tokens"] = str(max(0, int(self.tokens_left)))
            found["x-ratelimit-reset-tokens"] = f"{self.tokens.seconds_until(rate)}s"
        return found


def _too_many(text: str, code: str, seconds: int) -> ApiError:
    return ApiError(429, text, code=code, headers={"Retry-After": str(max(1, seconds))})


NOBODY = Caller()


def caller_of(request: Request) -> Caller:
    """Set by the gate in front of every route."""
    found: Caller = getattr(request.state, "caller", NOBODY)
    return found


class Access:
    """Every caller, and how many samples are being answered or waiting for all of them, at most
    `max_queue`. A full queue does not shut out who has nothing in it: they have as much again. For
    chats batch work does not count: it cannot fill the queue for them.
    """

    def __init__(
        self,
        keys: Sequence[ApiKey] = (),
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        max_queue: int = 512,
        users: ProxyUsers | None = None,
        users_limits: Limits | None = None,
    ) -> None:
        """`limits`: shared by everybody, if there are neither keys nor users. Keys of one name are
        one caller. `users`: those that a proxy lets in, each with `users_limits`, unless there is a
        key of the same name.
        """
        self.ended: dict[str, Caller] = {}  # of whom requests have ended, for whoever writes it
        # told of every change of how many samples of a caller are being answered, but the first
        self.changed: Callable[[Caller], object] = lambda caller: None
        self.users = users
        self.users_total = Used()
        self._users_limits = users_limits or Limits()
        self._users: LRUCache[str, Caller] = LRUCache(MOST_USERS)
        self._clock = clock
        self.running = 0
        self.running_of: Counter[str] = Counter()  # by whose turn it is
        self.running_batch = 0  # of all
        self.receiving = 0  # bytes of bodies that are not whole yet
        self.receiving_of: Counter[str] = Counter()
        self.max_queue = max_queue
        is_open = not keys and users is None
        self.everybody = Caller("", limits or Limits(), clock=clock) if is_open else None
        self._callers = {key.name: Caller(key.name, key.limits, clock=clock) for key in keys}
        self._keys = [(key.digest.encode(), self._callers[key.name]) for key in keys]

    @classmethod
    def of(cls, settings: Settings) -> Access:
        users = None
        if settings.user_header is not None:
            users = ProxyUsers(settings.user_header, settings.trusted_proxies)
        return cls(
            settings.keys,
            settings.limits,
            max_queue=settings.max_queue,
            users=users,
            users_limits=settings.users,
        )

    def caller(self, headers: Mapping[str, str], peer: str = "") -> Caller:
        """Whom a proxy names, else whose key is in `Authorization: Bearer` or `x-api-key`. `peer`:
        the address of the connection. Raises `ApiError` (401).
        """
        if self.everybody is not None:
            return self.everybody
        user = None if self.users is None else self.users.name(headers, peer)
        if user is not None:
            return self._user(user)
        secrets = presented(headers)
        for secret in secrets:
            digest = secret_digest(secret).encode()
            found = None
            for known, caller in self._keys:  # all of them, so that the time says nothing
                if hmac.compare_digest(known, digest):
                    found = caller
            if found is not None:
                return found
        text = "this API key is not known here" if secrets else "an API key is needed"
        raise ApiError(
            401,
            f"{text}; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`",
            code="invalid_api_key",
            headers={"WWW-Authenticate": 'Bearer realm="ossia"'},
        )

    @property
    def has_names(self) -> bool:
        """Whether callers are told apart."""
        return self.everybody is None

    def named(self, name: str) -> Caller:
        """The caller whose request another server of ours passes on. Raises `ApiError` (401) if
        this one does not know the name: servers that share a store share their keys.
        """
        found = self.everybody or self._callers.get(name)
        if found is None and self.users is not None and name.startswith(PREFIX):
            found = self._user(name)
        if found is None:
            raise ApiError(401, f"no key here has the name {name!r:.80}", code="invalid_api_key")
        return found

    def _user(self, name: str) -> Caller:
        found = self._callers.get(name) or self._users.get(name)
        if found is None:
            found = Caller(name, self._users_limits, clock=self._clock, group=self.users_total)
            self._users[name] = found
        return found

    def callers(self) -> list[Caller]:
        """Everybody who is known."""
        everybody = [] if self.everybody is None else [self.everybody]
        return [*everybody, *self._callers.values(), *self._users.values()]

    def busy(self) -> list[Caller]:
        """Those of whom samples are being answered."""
        return [each for each in self.callers() if each.running]

    def running_by(self, name: str) -> int:
        """Samples that are being answered, here and elsewhere, to a caller of this name."""
        return sum(each.running + each.elsewhere for each in self.busy() if each.name == name)

    def totals(self) -> dict[str, Used]:
        """What has been used since the start, by key; users of a proxy together."""
        found = {name: each.tally.used for name, each in self._callers.items()}
        if self.everybody is not None:
            found[NO_KEY] = self.everybody.tally.used
        if self.users is not None:
            found[ALL_USERS] = self.users_total
        return found

    def count(self, caller: Caller, turn: str, samples: int, elsewhere: int = 0) -> None:
        """`elsewhere`: those of them that another server of ours counts for the caller."""
        self.running += samples
        caller.running += samples - elsewhere
        if caller.is_batch:
            self.running_batch += samples
        _add(self.running_of, turn, samples)

    def receive(self, turn: str, size: int) -> None:
        self.receiving += size
        _add(self.receiving_of, turn, size)

    def refusal(self, caller: Caller, turn: str, more: int, own: int = 0) -> ApiError | None:
        """Why so many more samples cannot be taken now; `own`: those that the request has."""
        return self.no_room(caller, turn, more, own) or caller.refusal(more)

    def no_room(self, caller: Caller, turn: str, more: int, own: int = 0) -> ApiError | None:
        """As `refusal`, by the queue alone."""
        has_others = self.running_of[turn] > own
        most = self.max_queue if has_others else 2 * self.max_queue
        before = self.running if caller.is_batch else self.running - self.running_batch
        if before + more > most:
            text = f"{before} samples are being answered or waiting already"
            return _too_many(text, "queue_full", RETRY)
        return None


def _add(counter: Counter[str], turn: str, more: int) -> None:
    counter[turn] += more
    if not counter[turn]:
        del counter[turn]


def address_of(host: str) -> str:
    """Whom an address stands for: an IPv6 network of 64 bits, which is what one customer has."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a Unix socket, or a test's client
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def presented(headers: Mapping[str, str]) -> list[str]:
    """The secrets in a request's headers, wherever clients put them."""
    scheme, _, rest = headers.get("authorization", "").strip().partition(" ")
    found = [rest.strip()] if scheme.lower() == "bearer" else []
    return [secret for secret in (*found, headers.get("x-api-key", "").strip()) if secret]


class Lease:
    """A request's place among those that are being answered. It lasts until everybody who holds it
    has let go: the gate at the end of the body, and every answer that was begun for the request,
    which may outlive the body (`background`). `turn`: whose turn it is, a key's name or an address.
    `is_admitted`: another server of ours, which passed the request on, has held it against the
    caller's limits, and counts it for the caller as long as it waits for the answer.
    """

    def __init__(
        self, access: Access, caller: Caller, turn: str = "", *, is_admitted: bool = False
    ) -> None:
        self.access = access
        self.caller = caller
        self.turn = turn
        self.is_admitted = is_admitted
        self.begun: float | None = None  # on the store's clock
        self.size = 0  # bytes of its body
        # of its answers, so far
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.session = ""  # a name for the conversation, by which a front finds this server again
        self._samples = 1
        self._elsewhere = int(is_admitted)  # samples that the other server counts
        self._holders = 0

    def refusal(self) -> ApiError | None:
        """Why it cannot be taken now, before other servers are asked."""
        full = self.access.no_room(self.caller, self.turn, 1)
        if full is not None or self.is_admitted:
            return full
        return self.caller.refusal(1, here=True)

    def hold(self) -> None:
        self._holders += 1
        if self._holders == 1:
            self.access.count(self.caller, self.turn, self._samples, self._elsewhere)

    def release(self) -> None:
        assert self._holders > 0
        self._holders -= 1
        if self._holders == 0:
            self.access.count(self.caller, self.turn, -self._samples, -self._elsewhere)
            self.access.ended[self.caller.name] = self.caller
            self.access.changed(self.caller)

    def answered(self) -> None:
        """Nobody waits for the request any more, nor does the server that passed it on: what goes
        on in the background is counted here.
        """
        if self._holders and self._elsewhere:
            self.access.count(self.caller, self.turn, 0, -self._elsewhere)
            self._elsewhere = 0
            self.access.changed(self.caller)

    def grow(self, samples: int, field: str) -> None:
        """The request turned out to ask for so many samples. Raises `ApiError`, a 400 if they could
        never be taken.
        """
        if samples == self._samples:
            return
        most = 2 * self.access.max_queue
        if self.caller.limits.concurrent is not None:
            most = min(most, self.caller.limits.concurrent)
        if samples > most:
            text = f"{samples} samples are asked for at once; the limit is {most}"
            raise ApiError(400, text, param=field, code="concurrency_limit_exceeded")
        more = samples - self._samples
        refusal = self.access.refusal(self.caller, self.turn, more, self._samples)
        if refusal is not None:
            raise refusal
        self.access.count(self.caller, self.turn, more)
        self._samples = samples
        self.access.changed(self.caller)


LEASE: ContextVar[Lease | None] = ContextVar("ossia_lease", default=None)


def count_samples(samples: int, field: str) -> None:
    """To be called before the work of a request that asks for several. Raises `ApiError`."""
    lease = LEASE.get()
    if lease is not None:
        lease.grow(samples, field)


def request_size() -> int:
    """Bytes of the body of the request that is being answered here."""
    lease = LEASE.get()
    return 0 if lease is None else lease.size


def request_begun() -> float | None:
    """When the request began that is being answered here, on the store's clock."""
    lease = LEASE.get()
    return None if lease is None else lease.begun


def whose_turn() -> Whose:
    """Of the request that is being answered here."""
    lease = LEASE.get()
    return Whose() if lease is None else Whose(lease.turn, lease.caller.is_batch)


def secret_digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
