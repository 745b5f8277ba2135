"""Stage A, first half: a reasoner answers every request with the section of its category in the
developer's message.

    drafts/000012.jsonl     all answers to one chunk of requests, written whole

A chunk is a function of its requests and the seed, so that a run that was killed goes on with the
next one, and what it writes is the same bytes. The reasoner is a model in this process, or one
behind an OpenAI-compatible endpoint. Knows conversations and drafts; who judges them is
`sifting.py`.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

from ossia.checkpoint import open_checkpoint
from ossia.errors import ConfigError, TrainingError
from ossia.files import replace_file
from ossia.harmony import Conversation, DeveloperContent, Effort, Message, Role, SystemContent
from ossia.harmony.chat_messages import reasoning_and_text
from ossia.judges import chat_choice
from ossia.model import Transformer
from ossia.remote import checked_key, patiently
from ossia.tasks.environment import Ask, Given
from ossia.tasks.external import RowEnvironment
from ossia.tasks.safety.requests import Request
from ossia.tasks.safety.specs import Policy
from ossia.tokenizer import Tokenizer
from ossia.train.align.drafts import STOPPED, Draft, write_drafts
from ossia.train.rl.sampler import PRECISIONS, compiled
from ossia.train.rl.sampler import Sampler as Engine
from ossia.train.rl.settings import Sampler, Sampling
from ossia.train.weights.export import load_weights
from ossia.turn import stop_ids
from ossia.turn.rollout import Sample

log = logging.getLogger("ossia.train")
FOLDER = "drafts"
TRIES = 5
BROKEN = (OSError, http.client.HTTPException, ValueError)
GUIDE = (
    "Think about which rule of this policy applies to what the user asks, and cite it by its "
    "number (as in: rule 4). Then answer as it says. Do not speak of the policy, its rules or "
    "their numbers in the answer: the user does not know it."
)


@dataclass(frozen=True)
class Generating:
    """How drafts are made."""

    samples: int = 4  # answers to each prompt
    max_tokens: int = 2048  # of an answer, thoughts included
    temperature: float = 1.0
    effort: Effort = Effort.HIGH
    # of a model in this process: bf16 and int8 are the compiled kernels, with experts in MXFP4 as
    # they are served; exact and float32 hold every weight in float32
    sampler: Sampler = "bf16"
    at_once: int = 64  # answers in a forward pass, or requests to a server
    chunk: int = 16  # prompts that are written together
    examples: bool = False  # show the rules' examples and near misses, too
    guide: str = GUIDE  # what the reasoner is told behind the section
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "max_tokens", "at_once", "chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"generate.{name} must be 1 or more, found {getattr(self, name)}")
        if not self.temperature > 0:
            raise ConfigError(f"generate.temperature must be above 0, found {self.temperature}")


Numbered = tuple[int, Request]


class Reasoner(Protocol):
    """Whoever writes drafts. `name`: for the provenance."""

    @property
    def name(self) -> str: ...
    def drafts(self, asked: Sequence[Numbered]) -> list[Draft]: ...
    def close(self) -> None: ...


def generate(
    requests: Sequence[Request], make: Callable[[], Reasoner], settings: Generating, out: Path
) -> None:
    """The chunks that `out/drafts` does not hold yet; the reasoner is only made for them."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    numbered = list(enumerate(requests))
    paths = {n: folder / f"{n:06d}.jsonl" for n in range(0, len(numbered), settings.chunk)}
    missing = {first: path for first, path in paths.items() if not path.exists()}
    if not missing:
        return
    reasoner = make()
    try:
        for first, path in missing.items():
            made = reasoner.drafts(numbered[first : first + settings.chunk])
            replace_file(path, write_drafts(made), sole_writer=True)
    finally:
        reasoner.close()


def with_policy(policy: Policy, request: Request, settings: Generating) -> Conversation:
    """The request as the reasoner sees it: section and guide before the developer's own words."""
    system = SystemContent(effort=settings.effort)
    section = policy.section(request.category, settings.examples)
    own = request.row.get("instructions")
    parts = [part for part in (section, settings.guide, own) if part]
    head = Message(Role.SYSTEM, system)
    developer = Message(Role.DEVELOPER, DeveloperContent("\n\n".join(parts)))
    said = prompt_of(request, settings.effort, None, instructions=False)
    return Conversation((head, developer, *said))


def prompt_of(
    request: Request, effort: Effort, system: SystemContent | None, instructions: bool = True
) -> tuple[Message, ...]:
    """The request without the policy, as it is trained on."""
    row = request.row if instructions else {**request.row, "instructions": None}
    return RowEnvironment(row, _nobody).prompt(effort, system)


def _nobody(row: Mapping[str, Any], outcome: object) -> None:
    return None


def seed_of(settings: Generating, request: int) -> int:
    return Random(f"{settings.seed}:draft:{request}").getrandbits(31)


# ---- in this process -----------------------------------------------------------------------------


def loaded(folder: Path, settings: Generating) -> Transformer:
    """A checkpoint for `InProcess`."""
    if settings.sampler in PRECISIONS:
        return compiled(folder, PRECISIONS[settings.sampler])
    config = open_checkpoint(folder).config
    return load_weights(config, folder).eval().requires_grad_(False)


class InProcess:
    """A model, on the engine. Between two chunks nothing is kept."""

    def __init__(
        self,
        model: Transformer,
        name: str,
        tokenizer: Tokenizer,
        policy: Policy,
        settings: Generating,
    ) -> None:
        self.name = name
        self._policy = policy
        self._settings = settings
        sampling = Sampling(
            samples=max(2, settings.samples),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            at_once=settings.at_once,
            sampler="exact" if settings.sampler == "exact" else "float32",
        )
        self._engine = Engine(model, tokenizer, stop_ids(tokenizer), sampling)

    def drafts(self, asked: Sequence[Numbered]) -> list[Draft]:
        settings = self._settings
        asks = []
        for number, request in asked:
            given = Given(with_policy(self._policy, request, settings))
            seed = seed_of(settings, number)
            asks.append(Ask(partial(_same, given), settings.effort, number, seed))
        groups = self._engine.draw(asks, settings.samples, version=1 + asked[0][0])
        found = []
        for (number, request), group in zip(asked, groups, strict=True):
            seed = seed_of(settings, number)
            found += [_draft(number, request, seed, sample) for sample in group]
        return found

    def close(self) -> None:
        self._engine.close()


def _same(given: Given) -> Given:
    return given


def _draft(number: int, request: Request, seed: int, sample: Sample) -> Draft:
    thoughts = [m.text for m in sample.messages if m.channel == "analysis"]
    return Draft(
        request=number,
        sample=sample.index,
        seed=seed,
        asked=request.asked,
        analysis="\n\n".join(thoughts),
        final=sample.outcome.final,
        reason=sample.reason,
        tokens=sample.counts.sampled,
    )


# ---- behind an endpoint --------------------------------------------------------------------------


@dataclass(frozen=True)
class Remote:
    """A model of a server that speaks Chat Completions and gives its reasoning. `url`: up to
    `/v1`.
    """

    url: str
    model: str
    policy: Policy
    settings: Generating
    key: str = ""
    silence: float = 3600.0  # seconds without a byte
    pause: Callable[[float], object] = time.sleep

    def __post_init__(self) -> None:
        """Raises `RequestError` for a key that cannot be sent, without showing it."""
        object.__setattr__(self, "key", checked_key(self.key, "OSSIA_REASONER_KEY"))

    @property
    def name(self) -> str:
        return self.model

    def drafts(self, asked: Sequence[Numbered]) -> list[Draft]:
        wanted = [(*each, sample) for each in asked for sample in range(self.settings.samples)]
        with ThreadPoolExecutor(min(self.settings.at_once, len(wanted))) as pool:
            return list(pool.map(lambda each: self._one(*each), wanted))

    def close(self) -> None:
        pass

    def _one(self, number: int, request: Request, sample: int) -> Draft:
        seed = seed_of(self.settings, number)
        choice = self._choice(self._body(request, seed + sample))
        thoughts, final = reasoning_and_text(choice["message"])
        return Draft(
            number,
            sample,
            seed,
            request.asked,
            thoughts,
            final,
            "length" if choice.get("finish_reason") == "length" else STOPPED,
        )

    def _choice(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises `TrainingError` when it has failed so often, or refuses the request."""

        def ask() -> Mapping[str, Any]:
            try:
                return chat_choice(self.url, self.key, body, self.silence)
            except BROKEN as error:
                log.warning("the reasoner failed: %s", error)
                raise

        try:
            return patiently(ask, TRIES, self.pause, BROKEN)
        except urllib.error.HTTPError as error:
            why = f"status {error.code}: {error.reason}"
        except BROKEN as error:
            why = f"{type(error).__name__}: {error}"
        raise TrainingError(
            f"{self.url}: the reasoner failed, at last with {why}; mend it, then go on with "
            "--resume: what was drafted is kept"
        )

    def _body(self, request: Request, seed: int) -> dict[str, Any]:
        settings = self.settings
        conversation = with_policy(self.policy, request, settings)
        messages = []
        for message in conversation.messages:
            content = message.content
            if isinstance(content, SystemContent):
                continue
            if isinstance(content, DeveloperContent):
                content = content.instructions or ""
            messages.append({"role": str(message.role), "content": content})
        return {
            "model": self.model,
            "messages": messages,
            "reasoning_effort": str(settings.effort),
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "seed": seed % (1 << 31),
        }
