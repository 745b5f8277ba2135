"""A model that is asked for verdicts, again where none comes, and whose verdicts are kept. Knows
threads and time; no rubrics.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from ossia.errors import JudgeError
from ossia.judges.verdicts import Kept, Verdict, digest, read_verdict, why_unread
from ossia.remote import busy_for

log = logging.getLogger("ossia.judges")
TRIES = 3
SHOWN = 80  # characters of what is no verdict
RAISED = (Exception, SystemExit)  # what asking may raise without harm to the run
Asker = Callable[[str, str], str]  # (system text, user text) -> what the model says, at T = 0


class Bench:
    """A model that is asked for verdicts: three tries, kept by content.

    `seconds`: of each try, from when the model has its turn (an asker whose `at_once` says so has
    only so many questions at a time); a server that says it is busy is given a `pause` after it.
    `cache`: a file that keeps verdicts, so that a run that is resumed has the same; `name`: of the
    model, which is part of the content. `missing`: verdicts that did not come, by cause. Any thread
    may ask; of two that ask the same at a time both are told the verdict that came first.
    """

    def __init__(
        self,
        ask: Asker,
        *,
        seconds: float = 60.0,
        cache: Path | None = None,
        name: str = "",
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.missing: Counter[str] = Counter()
        self.name = name or str(getattr(ask, "name", ""))
        self._ask = ask
        self._seconds = seconds
        self._pause = pause
        self._lock = threading.Lock()
        self._cache = Kept(cache)
        self._why = ""  # the last one that did not come, in words
        at_once: int | None = getattr(ask, "at_once", None)
        self._turn: AbstractContextManager[Any] = nullcontext()
        if at_once is not None:
            self._turn = threading.Semaphore(at_once)

    def tried(self, system: str, text: str, wanted: bool) -> bool:
        """Whether the verdict of a trial is "pass". One that is not as `wanted` is not kept: the
        judge may be mended before the next. Raises `JudgeError` where none comes.
        """
        verdict = self.verdict(system, text, wanted)
        if verdict is None:
            whose = self.name or "the judge"
            raise JudgeError(
                f"{whose} gave no verdict, asked {TRIES} times: {self._why}; see that its URL, "
                "name and key are right, and that it answers with the JSON object "
                "that it is asked for and nothing else"
            )
        return verdict.passes

    def verdict(self, system: str, text: str, wanted: bool | None = None) -> Verdict | None:
        key = digest(self.name, system, text)
        known = self._cache.get(key)
        if known is not None and wanted in (None, known.passes):
            return known
        cause = ""
        detail = ""
        for tried in range(1, TRIES + 1):
            detail = ""
            try:
                with self._turn:
                    said = _within(self._seconds, lambda: self._ask(system, text))
            except TimeoutError:
                cause = "it did not answer in time"
                log.warning("the judge did not answer in %g s", self._seconds)
            except RAISED as error:
                cause = f"it failed: {_kind_of(error)}"
                detail = f" ({error})"
                log.warning("the judge failed: %s", error)
                busy = busy_for(error, tried)
                if busy and tried < TRIES:
                    self._pause(busy)
            else:
                verdict = read_verdict(said)
                if verdict is not None:
                    if wanted is None:
                        return self._cache.keep(key, verdict)
                    if wanted == verdict.passes:
                        self._cache.put(key, verdict)
                    return verdict
                cause = why_unread(said)
                detail = f" ({said[:SHOWN]!r})"
        with self._lock:
            self.missing[cause] += 1
            self._why = f"{cause}{detail}"
        return None


def _kind_of(error: BaseException) -> str:
    """For counting: a limit of requests is another trouble than a wrong key."""
    if isinstance(error, HTTPError):
        return f"status {error.code}"
    return type(error).__name__


def _within(seconds: float, ask: Callable[[], str]) -> str:
    """What it returns or raises; TimeoutError if it takes longer. A thread that hangs is left."""
    future: Future[str] = Future()

    def work() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="ossia-judge", daemon=True).start()
    return future.result(seconds)
