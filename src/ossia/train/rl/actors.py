"""Processes that sample while another one learns, on one machine or many: Ray's actors, each with
an engine on a copy of the weights.

    pool = Pool(chosen, make, named, checker, folder)    what `learn` draws from, like a `Sampler`

Groups of samples are dealt to the actors and put in order again. A sample depends on its ask, its
index and the weights alone, so it is the same whoever draws it. Every reply says which weights it
is of, by version and checksum; any others are an error. What an actor had not answered when it died
is asked again elsewhere. The only file that imports Ray, and not before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import Tensor

from ossia.errors import ConfigError, TrainingError
from ossia.kernels import products, use_threads
from ossia.model import Transformer
from ossia.tasks.environment import Ask
from ossia.tokenizer import Tokenizer
from ossia.train.optim import trained
from ossia.train.rl import sync
from ossia.train.rl.asks import Problems
from ossia.train.rl.record import Groups
from ossia.train.rl.sampler import Sampler
from ossia.train.rl.settings import Actors, Sampling
from ossia.turn.rollout import Sample

HERE = "127.0.0.1"
LONGEST_WHY = 400  # characters
TRIES = 3  # times that a group is asked; one that kills its actor again and again stops the run
RAYS = {  # switches of Ray's, unless somebody has set them
    "RAY_USAGE_STATS_ENABLED": "0",  # no report of its use leaves the machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning of what it will do one day
    "RAY_worker_niceness": "0",  # actors do the main work: they do not wait for everybody else
}
Origin = tuple[str | int, ...]


@dataclass(frozen=True)
class Copy:
    """What an actor makes for itself: the model as the run begins with it, and what is asked."""

    model: Transformer
    problems: Problems
    tokenizer: Tokenizer
    stop_tokens: Collection[int]
    sampling: Sampling


@dataclass(frozen=True)
class Reply:
    """`groups` in the order in which they were asked, by the weights with this checksum."""

    version: int
    weights: str
    groups: list[list[Sample]]


class Actor:
    """In a process of its own. `begin` comes first, and not with the process: what it raises is
    then said as it is, and no sign that the process has died.
    """

    def __init__(
        self, make: Callable[[], Copy], threads: int, multiplying: Mapping[str, Any]
    ) -> None:
        self._make = make
        self._threads = threads
        self._multiplying = multiplying
        self._version = 0
        self._copy: Copy | None = None

    def begin(self) -> None:
        if self._copy is not None:
            return
        use_threads(self._threads)
        products.go_on_with(self._multiplying)
        copy = self._make()
        self._sampler = Sampler(copy.model, copy.tokenizer, copy.stop_tokens, copy.sampling)
        self._copy = copy

    def receive(self, parcel: sync.Parcel, data: bytes | None = None) -> tuple[int, str]:
        assert self._copy is not None
        sync.receive(parcel, trained(self._copy.model), data)
        self._version = parcel.version
        return self._version, self._sampler.prepare(self._version)

    def draw(self, origins: Sequence[Origin], samples: int) -> Reply:
        assert self._copy is not None
        asks = [self._copy.problems.again(origin) for origin in origins]
        groups = self._sampler.draw(asks, samples, self._version)
        return Reply(self._version, self._sampler.prepare(self._version), groups)


class Pool:
    """The actors of a run, from its first step to its last: `close` them. `make` is called in each;
    it must lead to the same model and problems as here, so it is a function of a module and plain
    values. `named`: the weights that are trained here. `checker` makes a sampler that samples
    nothing here, but holds what makes training exact; None for samplers that are not. `folder`: of
    the weights, where they are sent in one.
    """

    leads = True

    def __init__(
        self,
        chosen: Actors,
        make: Callable[[], Copy],
        named: Mapping[str, Tensor],
        checker: Callable[[], Sampler] | None,
        folder: Path,
    ) -> None:
        self._chosen = chosen
        self._make = make
        self._named = named
        self._folder = folder
        self._ray = _ray()
        self._started = _begin(self._ray, chosen)
        self._version: int | None = None
        self._weights = ""
        self._meeting: sync.Meeting | None = None
        if chosen.sync == "broadcast":
            host = HERE if chosen.address is None else self._ray.util.get_node_ip_address()
            self._meeting = sync.Meeting(host)
        self._alive: list[Any] = []
        self._why = ""  # the last one died
        self._checker: Sampler | None = None
        if checker is not None:
            self._checker = self._or_closed(checker)

    def prepare(self, version: int) -> str:
        """Sends the weights of a new version, to actors in place of those that died as well. Raises
        `TrainingError` if they do not arrive as they are here.
        """
        if version == self._version:
            return self._weights
        self._weights = sync.checksum(self._named)
        self._version = version
        for _ in range(TRIES):
            self._replace()
            if self._send():
                return self._weights
        raise TrainingError(
            f"actors died {TRIES} times while they were sent weights; perhaps their machines have "
            f"too little memory for the model. Ray says: {self._why}"
        )

    def draw(self, asks: Sequence[Ask], samples: int, version: int) -> list[list[Sample]]:
        """Raises `TrainingError` for a reply that is of other weights, and for a group whose actors
        die again and again; also what a task raised there.
        """
        self.prepare(version)
        found: dict[int, list[Sample]] = {}
        for _ in range(TRIES):
            left = [ask for ask in asks if ask.group not in found]
            if not left:
                break
            if not self._alive:
                self._replace()
                self._send()
            found |= self._drawn(left, samples)
        missing = [ask.group for ask in asks if ask.group not in found]
        if missing:
            raise TrainingError(
                f"the actors that were asked for group {missing[0]} died {TRIES} times; perhaps a "
                f"tool or a reward ends its process or takes all memory. Ray says: {self._why}"
            )
        return [found[ask.group] for ask in asks]

    def check(self, groups: Sequence[Sequence[Sample]]) -> int:
        return 0 if self._checker is None else self._checker.check(groups)

    def agreed(self, found: Groups) -> Groups:
        return found

    def close(self) -> None:
        for actor in self._alive:
            self._ray.kill(actor)
        self._alive = []
        if self._started:
            self._ray.shutdown()
        if self._checker is not None:
            self._checker.close()

    def _or_closed(self, make: Callable[[], Sampler]) -> Sampler:
        try:
            return make()
        except BaseException:
            self.close()
            raise

    def _replace(self) -> None:
        """As many as there should be, all without this version's weights yet."""
        actor = self._ray.remote(num_cpus=self._chosen.threads)(Actor)
        multiplying = asdict(products.serving())
        while len(self._alive) < self._chosen.count:
            new = actor.remote(self._make, self._chosen.threads, multiplying)
            self._alive.append(new)

    def _send(self) -> bool:
        """Whether all actors have the weights now. Those that died are left out."""
        assert self._version is not None
        self._answers({actor: actor.begin.remote() for actor in self._alive})
        actors = list(self._alive)
        calls: list[Any]
        match self._chosen.sync:
            case "store":
                data = self._ray.put(sync.packed(self._named))
                parcel = sync.Parcel(self._version)
                calls = [actor.receive.remote(parcel, data) for actor in actors]
            case "folder":
                sync.write(self._named, self._folder)
                parcel = sync.Parcel(self._version, self._folder)
                calls = [actor.receive.remote(parcel) for actor in actors]
            case "broadcast":
                calls = self._broadcast(actors)
        arrived = self._answers(dict(zip(actors, calls, strict=True)))
        for version, weights in arrived.values():
            self._hold_to(version, weights)
        return len(arrived) == len(actors)

    def _broadcast(self, actors: Sequence[Any]) -> list[Any]:
        assert self._meeting is not None and self._version is not None
        groups = self._meeting.groups(len(actors))
        calls = []
        for actor, group in zip(actors, groups, strict=True):
            calls.append(actor.receive.remote(sync.Parcel(self._version, group=group)))
        self._meeting.send(self._named, len(actors))
        return calls

    def _drawn(self, asks: Sequence[Ask], samples: int) -> dict[int, list[Sample]]:
        """By group, without those of actors that died."""
        count = len(self._alive)
        dealt = {actor: asks[n::count] for n, actor in enumerate(self._alive) if asks[n::count]}
        calls = {}
        for actor, share in dealt.items():
            calls[actor] = actor.draw.remote([ask.origin for ask in share], samples)
        found: dict[int, list[Sample]] = {}
        for actor, reply in self._answers(calls).items():
            self._hold_to(reply.version, reply.weights)
            for ask, group in zip(dealt[actor], reply.groups, strict=True):
                found[ask.group] = group
        return found

    def _answers(self, calls: Mapping[Any, Any]) -> dict[Any, Any]:
        """Of each actor that lives; the others are forgotten. Raises what an actor raised."""
        found = {}
        errors = self._ray.exceptions
        for actor, call in calls.items():
            try:
                found[actor] = self._ray.get(call)
            except errors.RayActorError as error:
                self._alive.remove(actor)
                self._why = shorten(str(error), LONGEST_WHY)
            except errors.RayTaskError as error:
                raise error.cause from None
        return found

    def _hold_to(self, version: int, weights: str) -> None:
        if (version, weights) != (self._version, self._weights):
            raise TrainingError(
                f"an actor has the weights {weights} of version {version}, and {self._weights} of "
                f"version {self._version} were sent: they did not arrive, or its model has other "
                "weights to train"
            )


def _ray() -> Any:
    for name, value in RAYS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "actors.count needs Ray: pip install 'ossia[ray]', or leave it at 0"
        ) from error
    return ray


def _begin(ray: Any, chosen: Actors) -> bool:
    """Whether Ray was started here, and so is to be ended."""
    if ray.is_initialized():
        return False
    if chosen.address is not None:
        ray.init(address=chosen.address, log_to_driver=False, configure_logging=False)
        return True
    ray.init(
        num_cpus=chosen.count * chosen.threads,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address=HERE,  # nobody else is to reach it
    )
    return True
