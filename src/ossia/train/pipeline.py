"""A recipe's phases, one after the other: each in a folder of its own, done once, resumed where it
was killed.

    out/pipeline.json          what has been done, and how long it took
    out/.lock                  held by the process that works here
    out/PHASE/started.json     what decides the phase's result, and when it was worked on
    out/PHASE/done.json        the same, once it is done; written last

Knows folders and phases; what a phase does is the recipe's. With torchrun, the first process alone
keeps these files, and does alone what is not marked as the work of all.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ossia import __version__
from ossia.config import ModelConfig
from ossia.errors import ConfigError, TrainingError
from ossia.files import write_json
from ossia.train.run import Run, Watcher
from ossia.train.settings import Hyperparameters, Lora, Parallel, under_todays_names

PIPELINE, STARTED, DONE, LOCK = "pipeline.json", "started.json", "done.json", ".lock"
POLL = 0.5  # seconds between looks at what the first process is doing

WatchersOf = Callable[[Run], Sequence[Watcher]]
_watchers: ContextVar[WatchersOf | None] = ContextVar("watchers", default=None)


@dataclass(frozen=True)
class Phase:
    """One step of a recipe. `run` does it, or goes on with it, in the folder `out/name`; it is
    called once more after a kill, and must then leave what an undisturbed call leaves.

    `settings` decide what it makes, by dotted name; None: everything in the recipe's Config. The
    other fields are for the plan: what it would cost, and what must be there.
    """

    name: str
    does: str  # one sentence
    run: Callable[[], object]
    tokens: int = 0  # that it trains on
    config: ModelConfig | None = None
    settings: Mapping[str, Any] | None = None
    hyper: Hyperparameters | None = None
    context: int | None = None  # tokens of a usual document; None: hyper.longest
    lora: Lora | None = None  # if only low-rank changes are trained
    needs: tuple[Path, ...] = ()  # files that must be there before the first phase begins
    disk: int | None = None  # bytes that it writes; None: what training this config keeps
    parallel: Parallel | None = None  # processes that it is spread over
    # for a dry run: reads what `run` would read, and writes nothing; what it returns is printed
    look: Callable[[], object] | None = None
    together: bool = False  # work of all processes; else of the first, and the others wait

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ConfigError(
                f"a phase's name becomes a folder: letters, digits, . _ and -, found {self.name!r}"
            )


@dataclass(frozen=True)
class Outcome:
    """What a phase came to: `seconds` over all sessions, `skipped` if it was done before."""

    name: str
    seconds: float
    skipped: bool


def training(
    run: Run, does: str, *, context: int | None = None, needs: Sequence[Path] = ()
) -> Phase:
    """The phase that trains `run`, whose `out` must be the phase's folder, watched by whoever runs
    the pipeline.
    """

    def go() -> None:
        from ossia.train.loop import train

        train(run, watchers=watchers_of(run))

    settings = run.identity()
    settings["start_from"] = None if run.start_from is None else str(run.start_from)
    return Phase(
        name=run.out.name,
        does=does,
        run=go,
        tokens=run.steps * run.hyper.tokens_per_step,
        config=run.config,
        settings=settings,
        hyper=run.hyper,
        context=context,
        lora=run.lora,
        needs=tuple(needs),
        parallel=run.parallel,
        together=True,
    )


def watchers_of(run: Run) -> list[Watcher]:
    """For phases that call `train` themselves: whoever wants to see its steps."""
    make = _watchers.get()
    return [] if make is None else list(make(run))


def run_pipeline(
    phases: Sequence[Phase],
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = True,
    fresh: bool = False,
    watch: WatchersOf | None = None,
    tell: Callable[[Phase, str], None] = lambda phase, what: None,
) -> list[Outcome]:
    """Do what is not done yet. `settings` are those of phases that have none; `tell` hears
    "skipped", "begins", "resumes" and "done".

    `fresh` first deletes what earlier calls left. Without `resume` an unfinished run in `out` is an
    error. Raises `ConfigError` if a phase that was begun or done had other settings (all that
    differ are named), and `TrainingError` if another process works in `out`, or if a file that is
    needed is not there.
    """
    _check_names(phases)
    phases = [_with_settings(phase, settings or {}) for phase in phases]
    rank = _rank()
    if rank == 0:
        check_needs(phases)
    if fresh and _processes() > 1:
        raise ConfigError(
            f"--fresh deletes under the hands of other processes: delete {out} before torchrun "
            "instead"
        )
    _check_processes(phases)
    outcomes = []
    lock = _locked(out) if rank == 0 else nullcontext()
    with lock, _watched_by(watch):
        if rank == 0:
            _prepare(phases, out, resume, fresh)
        for phase in phases:
            outcomes.append(_do(phase, out, rank, tell))
            if rank == 0:
                _note(phases, out)
    return outcomes


def state_of(phase: Phase, out: Path) -> str:
    """ "done", "unfinished" or "to do"."""
    if (out / phase.name / DONE).exists():
        return "done"
    return "unfinished" if (out / phase.name / STARTED).exists() else "to do"


def check_needs(phases: Sequence[Phase]) -> None:
    """Raises `TrainingError` naming every file that is needed and not there."""
    missing: dict[Path, str] = {}
    for phase in phases:
        for path in phase.needs:
            if not path.exists():
                missing[path] = phase.name
    if missing:
        named = "; ".join(f"{path} (for phase {phase})" for path, phase in missing.items())
        raise TrainingError(
            f"there is no such file: {named}. Nothing was begun: give a path that exists"
        )


def check_settings(phase: Phase, out: Path, defaults: Mapping[str, Any] | None = None) -> None:
    """Raises `ConfigError` naming every setting in which what `out` holds of the phase differs."""
    wanted = _plain(phase.settings if phase.settings is not None else defaults or {})
    for name, has in ((DONE, "was done"), (STARTED, "was begun")):
        found = _read(out / phase.name / name)
        if found is None:
            continue
        then = under_todays_names(found["config"])
        differ = [
            f"{key} was {_said(then, key)} and is {_said(wanted, key)}"
            for key in sorted(then.keys() | wanted.keys())
            if _said(then, key) != _said(wanted, key)
        ]
        if differ:
            raise ConfigError(
                f"{out}: phase {phase.name} {has} with other settings: {'; '.join(differ)}. Give "
                "the settings of then, another --out, or --fresh to delete what is there and begin "
                "again"
            )
        return


# ---- one phase -----------------------------------------------------------------------------------


def _do(phase: Phase, out: Path, rank: int, tell: Callable[[Phase, str], None]) -> Outcome:
    folder = out / phase.name
    if rank and not phase.together:
        while not (folder / DONE).exists():
            time.sleep(POLL)
    done = _read(folder / DONE)
    if done is not None:
        tell(phase, "skipped")
        return Outcome(phase.name, done["seconds"], True)
    if rank:
        phase.run()
        return Outcome(phase.name, 0.0, False)
    before = _earlier_seconds(folder)
    tell(phase, "resumes" if (folder / STARTED).exists() else "begins")
    config = _plain(phase.settings or {})
    about: dict[str, Any] = {
        "phase": phase.name,
        "does": phase.does,
        "config": config,
        "config_hash": _hash(config),
    }
    folder.mkdir(parents=True, exist_ok=True)
    began = time.time()
    _write(folder / STARTED, about | {"earlier_seconds": round(before, 3), "began": began})
    with _naming_a_full_disk(folder):
        phase.run()
    seconds = round(before + time.time() - began, 3)
    about |= {"seconds": seconds, "finished": _now(), "ossia": __version__}
    _write(folder / DONE, about)
    (folder / STARTED).unlink()
    tell(phase, "done")
    return Outcome(phase.name, seconds, False)


@contextmanager
def _naming_a_full_disk(folder: Path) -> Iterator[None]:
    """The system's own error may not even say where."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TrainingError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); make room, then "
            "go on with --resume"
        ) from error


def _earlier_seconds(folder: Path) -> float:
    """What earlier sessions took. One that was killed lasted until it last changed a file here."""
    started = _read(folder / STARTED)
    if started is None:
        return 0.0
    newest = max(path.stat().st_mtime for path in folder.rglob("*") if path.is_file())
    return float(started["earlier_seconds"] + max(0.0, newest - started["began"]))


# ---- the folder ----------------------------------------------------------------------------------


def _prepare(phases: Sequence[Phase], out: Path, resume: bool, fresh: bool) -> None:
    """See that what `out` holds is what is asked for, or nothing."""
    names = {phase.name for phase in phases}
    ran_before = (out / PIPELINE).exists()
    if fresh:
        _forget(phases, out)
    else:
        _check_recipe(names, out)
    ours = {PIPELINE, LOCK, f"{PIPELINE}.tmp", *names}
    strange = sorted(path.name for path in out.iterdir() if path.name not in ours)
    if strange and not ran_before:
        some = ", ".join(strange[:3])
        more = " and more" if strange[3:] else ""
        raise ConfigError(f"{out} holds {some}{more}, and no run: give another --out")
    for phase in phases:
        check_settings(phase, out)
    states = [state_of(phase, out) for phase in phases]
    if not resume and (out / PIPELINE).exists() and set(states) != {"done"}:
        at = next(n for n, state in enumerate(states) if state != "done")
        done = states.count("done")
        raise ConfigError(
            f"{out} holds an unfinished run ({done} of {len(phases)} phases are done, "
            f"{phases[at].name} is next): give --resume to go on, --fresh to delete it and begin "
            "again, or another --out"
        )
    _note(phases, out)


def _check_recipe(names: set[str], out: Path) -> None:
    noted = _read(out / PIPELINE)
    if noted is None:
        return
    there = [phase["name"] for phase in noted["phases"]]
    if names.isdisjoint(there):
        raise ConfigError(
            f"{out} holds a run of another recipe, with the phases {', '.join(there)}: "
            "give another --out"
        )


def _forget(phases: Sequence[Phase], out: Path) -> None:
    """Delete the folders of phases, and nothing else."""
    names = {phase.name for phase in phases}
    with suppress(TrainingError):  # a damaged record: it names no phases, and goes, too
        names |= {phase["name"] for phase in (_read(out / PIPELINE) or {"phases": []})["phases"]}
    for name in names:
        folder = out / name
        if (folder / STARTED).exists() or (folder / DONE).exists():
            shutil.rmtree(folder)
    (out / PIPELINE).unlink(missing_ok=True)


def _note(phases: Sequence[Phase], out: Path) -> None:
    rows: list[dict[str, Any]] = []
    for phase in phases:
        done = _read(out / phase.name / DONE) or {"seconds": None, "finished": None}
        row = {
            "name": phase.name,
            "does": phase.does,
            "state": state_of(phase, out),
            "tokens": phase.tokens,
        }
        rows.append(row | {key: done[key] for key in ("seconds", "finished")})
    total = round(sum(row["seconds"] or 0.0 for row in rows), 3)
    _write(out / PIPELINE, {"phases": rows, "total_seconds": total, "ossia": __version__})


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold `out` alone. The system lets the lock go when the process ends, however it ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("a+")
    except OSError as error:
        raise TrainingError(
            f"{out}: cannot be written to ({error.strerror}): give another --out"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "another process"
            raise TrainingError(
                f"{out} is in use by {who}: wait for it to end, or give another --out"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}, since {_now()}\n")
        file.flush()
        yield


@contextmanager
def _watched_by(watch: WatchersOf | None) -> Iterator[None]:
    token = _watchers.set(watch)
    try:
        yield
    finally:
        _watchers.reset(token)


# ---- small things --------------------------------------------------------------------------------


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _check_processes(phases: Sequence[Phase]) -> None:
    """Before anything is begun."""
    for phase in phases:
        wanted = None if phase.parallel is None else phase.parallel.processes
        if wanted is not None and wanted != _processes():
            raise ConfigError(
                f"phase {phase.name} is to be spread over {wanted} processes, and this is one of "
                f"{_processes()}: start the run with `torchrun --nproc-per-node {wanted} -m ossia "
                "train ...`, or change parallel"
            )


def _check_names(phases: Sequence[Phase]) -> None:
    names = [phase.name for phase in phases]
    if not names:
        raise ConfigError("the recipe has no phases")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two phases are called {twice[0]!r}: each needs a folder of its own")


def _with_settings(phase: Phase, defaults: Mapping[str, Any]) -> Phase:
    if phase.settings is not None:
        return phase
    return replace(phase, settings=defaults)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain


def _hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _said(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not there"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{path}: cannot be read ({error}): restore it, or begin again with --fresh"
        ) from error
    assert isinstance(data, dict), path
    return data


def _write(path: Path, data: Mapping[str, Any]) -> None:
    try:
        write_json(path, data, sole_writer=True)
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror}); make room, then go on with --resume"
        ) from error
