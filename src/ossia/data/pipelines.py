"""Real text to shards: read, clean, drop hazards and copies, tokenize, with datatrove (extra
`train`).

    filter     read the files; Gopher's quality and repetition rules, FineWeb's; the hazard filter;
               MinHash signatures
    match      per bucket of hashes: which documents agree in it
    cluster    which documents are copies of each other; one of each group stays
    tokenize   without the copies, into one folder of shards per task
    finish     one index over all of them, and a report of what each step removed

Each stage is a datatrove pipeline, run by its local, Slurm or Ray executor. A finished task is not
run again, so `prepare` called again after a kill continues, and ends with the same shards. Knows
files and settings; the blocks are in `blocks.py`. Does not use the network.
"""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ossia.data.filter import HazardFilter
from ossia.data.shards import SHARD_TOKENS, Vocabulary
from ossia.data.sources import Kind, files_in
from ossia.errors import DataError
from ossia.files import write_json
from ossia.tokenizer import Tokenizer

if TYPE_CHECKING:
    from datatrove.executor.base import PipelineExecutor
    from datatrove.pipeline.base import PipelineStep

REPORT = "report.json"
SETTINGS = "settings.json"
SUBMITTED = "submitted.json"
WORKERS = "workers.lock"
_LEAVE_AFTER = 30.0  # seconds for the processes of a killed run to end


@dataclass(frozen=True)
class Quality:
    """Rules of thumb for web text, as datatrove has them; `*_options` are further arguments of its
    filters.
    """

    gopher: bool = True  # arXiv 2112.11446: length, symbols, stop words
    repetition: bool = True  # the same, repeated lines, paragraphs and n-grams
    # arXiv 2406.17557: lines without an end, short lines, repeated characters
    fineweb: bool = False
    min_words: int = 50
    max_words: int = 100_000
    gopher_options: Mapping[str, Any] = field(default_factory=dict)
    repetition_options: Mapping[str, Any] = field(default_factory=dict)
    fineweb_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dedup:
    """MinHash: two documents are copies if all hashes of a bucket agree.

    The chance of that is 1 - (1 - s^hashes)^buckets for documents of similarity s.
    """

    n_grams: int = 5  # words
    buckets: int = 14
    hashes_per_bucket: int = 8
    seed: int = 1


@dataclass(frozen=True)
class Executor:
    """Who runs the tasks: one of datatrove's executors. `options` are further arguments of it."""

    name: Literal["local", "slurm", "ray"] = "local"
    # parts of the input, by files; copies are told apart by them, so their number must not change
    tasks: int = 2
    workers: int = -1  # tasks at a time; -1: all
    partition: str | None = None  # Slurm's, needed there
    time: str | None = None  # Slurm's limit for a task, as 4:00:00; needed there
    options: Mapping[str, Any] = field(default_factory=dict)


def prepare(
    source: str | Path,
    out: str | Path,
    tokenizer: str | Path,
    *,
    kind: Kind = "auto",
    text_key: str = "text",
    quality: Quality | None = Quality(),
    dedup: Dedup | None = Dedup(),
    hazard: str | Path | None = None,
    executor: Executor = Executor(),
    begin: str | None = "<|startoftext|>",
    end: str | None = "<|endoftext|>",
    shard_tokens: int = SHARD_TOKENS,
    keep: bool = False,
) -> dict[str, Any] | None:
    """Shards in `out` from the texts in `source`; returns the content of `report.json`.

    That is the counts, and the documents that each step removed. `tokenizer` is a tokenizer.json;
    `begin` and `end` are specials put around every document (None: none); `hazard` is a folder of
    `HazardFilter.save`. `keep` leaves the filtered texts and the signatures in `out/work`. With
    Slurm the jobs are submitted once, and None comes back until they are done; to submit failed
    ones again, delete `out/work/submitted.json`.

    Raises `DataError` for input that cannot be read, for an `out` of other settings or in use by
    another run, and if no document is left.
    """
    source = Path(source).resolve()
    out = Path(out).resolve()
    _check(executor)
    _check_dedup(dedup)
    if out.is_relative_to(source):
        raise DataError(f"{out} lies inside {source}, whose files are read: write somewhere else")
    files = [str(path) for path in files_in(source, kind)]
    tokenizer = Path(tokenizer).resolve()
    plan = _Plan(
        out,
        files,
        tokenizer,
        text_key,
        quality,
        dedup,
        hazard,
        executor,
        begin,
        end,
        shard_tokens,
        keep,
    )
    return _carry_out(plan)


def _carry_out(plan: _Plan) -> dict[str, Any] | None:
    """Run the plan unless it was run or submitted; the report, None if there is none yet."""
    out = plan.out
    path = out / REPORT
    settings = _settings(plan)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        _check_settings(out / SETTINGS, settings)
        if not path.exists() and not (plan.work / SUBMITTED).exists():
            _run(plan)
        if not path.exists():
            return None
    report: dict[str, Any] = json.loads(path.read_bytes())
    if not report["documents"]["kept"]:
        raise DataError(
            f"no document is left: {path} says which step removed them; relax its limits"
        )
    return report


@dataclass(frozen=True)
class _Plan:
    out: Path
    files: list[str]
    tokenizer: Path
    text_key: str
    quality: Quality | None
    dedup: Dedup | None
    hazard: str | Path | None
    executor: Executor
    begin: str | None
    end: str | None
    shard_tokens: int
    keep: bool

    @property
    def work(self) -> Path:
        return self.out / "work"


@dataclass(frozen=True)
class _Stage:
    """A pipeline: (label in the report or "", block) in order, and how many tasks it has."""

    name: str
    blocks: list[tuple[str, PipelineStep]]
    tasks: int


def _settings(plan: _Plan) -> dict[str, Any]:
    """What decides the result, as JSON values. Raises `TokenizerError` if the tokenizer lacks a
    special.
    """
    tokenizer = Tokenizer.from_file(plan.tokenizer)
    for special in (plan.begin, plan.end):
        if special is not None:
            tokenizer.special(special)
    settings = {
        "files": [
            [name, Path(name).stat().st_size, Path(name).stat().st_mtime_ns] for name in plan.files
        ],
        "vocabulary": asdict(Vocabulary.of(tokenizer)),
        "text_key": plan.text_key,
        "quality": asdict(plan.quality) if plan.quality else None,
        "dedup": asdict(plan.dedup) if plan.dedup else None,
        "hazard": HazardFilter.load(plan.hazard).fingerprint if plan.hazard else None,
        "specials": [plan.begin, plan.end],
        "tasks": plan.executor.tasks,
        "shard_tokens": plan.shard_tokens,
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _run(plan: _Plan) -> None:
    try:
        stages = _stages(plan)
    except ImportError as error:
        raise DataError(
            f"preparing text needs datatrove ({error}): pip install 'ossia[train]'"
        ) from error
    previous: PipelineExecutor | None = None
    for stage in stages:
        previous = _executor(plan, stage, previous)
        if plan.executor.name != "slurm":
            previous.run()
    if previous is not None and plan.executor.name == "slurm":
        previous.run()  # submits those it depends on first
        write_json(plan.work / SUBMITTED, {"last_job": previous.job_id})


def _stages(plan: _Plan) -> list[_Stage]:
    from ossia.data import blocks

    tasks = plan.executor.tasks
    texts = str(plan.work / "texts")
    filtering = [("read", blocks.ReadFiles(plan.files, plan.text_key)), *_filters(plan)]
    stages = [_Stage("1-filter", [*filtering, ("", blocks.WriteTexts(texts))], tasks)]
    removing: list[tuple[str, PipelineStep]] = []
    if plan.dedup:
        signatures, matching, removing = _dedup(plan, plan.dedup)
        stages[0].blocks.append(("", signatures))
        stages += matching
    writer = blocks.WriteShards(
        str(plan.out), str(plan.tokenizer), plan.begin, plan.end, plan.shard_tokens
    )
    stages.append(
        _Stage("4-tokenize", [("", blocks.ReadTexts(texts)), *removing, ("", writer)], tasks)
    )
    counted = [
        (str(_logs(plan, s)), [label for label, _ in s.blocks]) for s in (stages[0], stages[-1])
    ]
    scratch = [] if plan.keep else [texts, str(plan.work / "minhash")]
    report = str(plan.out / REPORT)
    finish = blocks.Finish(str(plan.out), report, tasks, counted, scratch)
    stages.append(_Stage("5-finish", [("", finish)], 1))
    return stages


def _filters(plan: _Plan) -> list[tuple[str, PipelineStep]]:
    from datatrove.pipeline.filters import (
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    from ossia.data.blocks import PlainWords, RemoveHazard

    words, q = PlainWords(), plan.quality
    found: list[tuple[str, PipelineStep]] = []
    try:
        if q and q.gopher:
            limits = {
                "min_doc_words": q.min_words,
                "max_doc_words": q.max_words,
                **q.gopher_options,
            }
            found.append(("gopher quality", GopherQualityFilter(language=words, **limits)))
        if q and q.repetition:
            found.append(
                (
                    "gopher repetition",
                    GopherRepetitionFilter(language=words, **q.repetition_options),
                )
            )
        if q and q.fineweb:
            found.append(
                ("fineweb quality", FineWebQualityFilter(language=words, **q.fineweb_options))
            )
    except TypeError as error:
        raise DataError(f"a quality filter does not know an option: {error}") from error
    if plan.hazard:
        found.append(("hazard", RemoveHazard(str(Path(plan.hazard).resolve()))))
    return found


def _dedup(
    plan: _Plan, dedup: Dedup
) -> tuple[PipelineStep, list[_Stage], list[tuple[str, PipelineStep]]]:
    """(the block that signs, the stages that compare, the block that removes)."""
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    from ossia.data.blocks import PlainWords, Signatures

    config = MinhashConfig(
        dedup.n_grams,
        dedup.buckets,
        dedup.hashes_per_bucket,
        dedup.seed,
        hash_config=HashConfig(hash_fc="sha1"),
    )
    signed, matched, copies = (
        str(plan.work / "minhash" / name) for name in ("signed", "matched", "copies")
    )
    match = _Stage(
        "2-match", [("", MinhashDedupBuckets(signed, matched, config=config))], dedup.buckets
    )
    cluster = _Stage("3-cluster", [("", MinhashDedupCluster(matched, copies, config=config))], 1)
    signatures = Signatures(signed, config=config, language=PlainWords())
    return signatures, [match, cluster], [("duplicates", MinhashDedupFilter(copies))]


def _executor(plan: _Plan, stage: _Stage, previous: PipelineExecutor | None) -> PipelineExecutor:
    chosen, pipeline, logs = (
        plan.executor,
        [block for _, block in stage.blocks],
        str(_logs(plan, stage)),
    )
    workers = chosen.workers
    if workers == -1 and chosen.name == "local":  # not one process for each bucket of hashes
        workers = min(chosen.tasks, stage.tasks)
    common = {"tasks": stage.tasks, "workers": workers, "logging_dir": logs, **chosen.options}
    try:
        if chosen.name == "slurm":
            from datatrove.executor import SlurmPipelineExecutor

            common |= {"partition": chosen.partition, "time": chosen.time, "depends": previous}
            return SlurmPipelineExecutor(pipeline, job_name=f"ossia-{stage.name}", **common)
        if chosen.name == "ray":
            from datatrove.executor import RayPipelineExecutor

            return RayPipelineExecutor(pipeline, **common)
        from ossia.data.blocks import LocalTasks

        return LocalTasks(pipeline, str(plan.work / WORKERS), **common)
    except TypeError as error:
        raise DataError(
            f"the {chosen.name} executor cannot be made so: {error}; see its options"
        ) from error


def _logs(plan: _Plan, stage: _Stage) -> Path:
    return plan.work / "logs" / stage.name


def _check(executor: Executor) -> None:
    if executor.name not in ("local", "slurm", "ray"):
        raise DataError(f"there is no executor {executor.name!r}: use local, slurm or ray")
    if executor.tasks < 1 or (executor.workers < 1 and executor.workers != -1):
        raise DataError(
            f"{executor.tasks} tasks by {executor.workers} workers: both are 1 or more (workers "
            "-1: all)"
        )
    if executor.name == "slurm" and not (executor.partition and executor.time):
        raise DataError(
            "Slurm needs a partition and a time limit: set the executor's partition=NAME and "
            "time=4:00:00"
        )
    if executor.name != "slurm" and (executor.partition or executor.time):
        raise DataError(
            f"partition and time are Slurm's, and the executor is {executor.name}: leave them out"
        )
    if executor.name == "ray" and find_spec("ray") is None:
        raise DataError(
            "the Ray executor needs ray, and a cluster that it is connected to: pip install ray"
        )


def _check_dedup(dedup: Dedup | None) -> None:
    if dedup and min(dedup.n_grams, dedup.buckets, dedup.hashes_per_bucket) < 1:
        raise DataError(
            f"{dedup}: n-grams, buckets and hashes are 1 or more each; use None to keep duplicates"
        )


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Remember the settings, or compare with those remembered: finished tasks are not done again
    for new ones.
    """
    if not path.exists():
        write_json(path, settings)
        return
    before = json.loads(path.read_bytes())
    different = sorted(key for key in settings if settings[key] != before.get(key))
    if different:
        raise DataError(
            f"{path.parent} was begun with other {', '.join(different)}: use another folder, or "
            "delete this one"
        )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold `out` alone, without other runs or processes of a killed one. Raises `DataError`."""
    work = out / "work"
    work.mkdir(exist_ok=True)
    with (work / "run.lock").open("ab") as mine, (work / WORKERS).open("ab") as theirs:
        if not _locked(lambda: fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB), 0):
            raise DataError(f"another run is preparing {out}: wait for it, or use another folder")
        if not _locked(lambda: fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB), _LEAVE_AFTER):
            raise DataError(
                f"processes of an earlier run are still at work in {out}: end them, then try again"
            )
        fcntl.flock(theirs, fcntl.LOCK_UN)
        yield


def _locked(attempt: Callable[[], None], patience: float) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            attempt()
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.1)
