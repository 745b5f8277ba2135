"""The blocks of a datatrove pipeline that are ours: strict reading, plain words, the hazard filter,
our shards.

Knows datatrove, which it imports at once: import this file late. `pipelines.py` puts the blocks
together.
"""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from copy import deepcopy
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.logging import setup_default_logger
from datatrove.utils.text import simplify_text
from datatrove.utils.word_tokenizers import WordTokenizer

from ossia.data.filter import HazardFilter
from ossia.data.shards import Vocabulary, merge_shards, write_shards
from ossia.data.sources import texts_in
from ossia.errors import DataError
from ossia.files import replacing, write_json
from ossia.tokenizer import Tokenizer

Documents = Iterator[Document]
_held: list[Any] = []  # the lock of a worker process, until it ends


class PlainWords(WordTokenizer):  # type: ignore[misc]
    """Words and punctuation by a regular expression.

    Those of datatrove are spaCy, NLTK or Stanza, which need packages or data from the network. For
    languages that are written without spaces this is not a word tokenizer, and counts of words mean
    little.
    """

    _pattern = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")

    def word_tokenize(self, text: str) -> list[str]:
        return self._pattern.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError("no filter here looks at sentences")

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError("no filter here looks at sentences")


class ReadFiles(PipelineStep):  # type: ignore[misc]
    """Documents of every `world_size`-th file; empty ones are counted and left out."""

    type, name = "READER", "files"

    def __init__(self, files: Sequence[str], text_key: str) -> None:
        super().__init__()
        self.files, self.text_key = list(files), text_key

    def run(self, data: Documents | None, rank: int = 0, world_size: int = 1) -> Documents:
        for path in self.files[rank::world_size]:
            for number, text in enumerate(texts_in(Path(path), self.text_key)):
                self.stat_update("total")
                if text.strip():
                    self.stat_update("forwarded")
                    yield Document(text=text, id=f"{path}/{number}")
                else:
                    self.stat_update("dropped", "dropped_empty")


class RemoveHazard(BaseFilter):  # type: ignore[misc]
    """A saved `HazardFilter`, which every process loads for itself."""

    name = "hazard"

    def __init__(self, folder: str, batch_size: int = 256) -> None:
        super().__init__(batch_size=batch_size)
        self.folder = folder
        self._filter: HazardFilter | None = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        if self._filter is None:
            self._filter = HazardFilter.load(self.folder)
        texts = [document.text for document in batch]
        escalated, kept = self._filter.decide(texts)
        if any(escalated):
            self.stat_update("escalated", value=sum(escalated))
        return [True if stays else (False, self._filter.removes) for stays in kept]


class WriteTexts(PipelineStep):  # type: ignore[misc]
    """Keeps the documents that passed the filters in one file a rank, even an empty one, and passes
    them on.
    """

    type, name = "WRITER", "filtered texts"

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Documents:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{rank:05}.jsonl"
        with replacing(path, sole_writer=True) as file:
            for document in data:
                file.write(json.dumps(document.text).encode() + b"\n")
                yield document


class ReadTexts(PipelineStep):  # type: ignore[misc]
    """The documents of `WriteTexts` in this rank, in its order, by which duplicates are named."""

    type, name = "READER", "filtered texts"

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def run(self, data: Documents | None, rank: int = 0, world_size: int = 1) -> Documents:
        with (self.folder / f"{rank:05}.jsonl").open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                yield Document(text=json.loads(line), id=f"{rank}/{number}")


class Signatures(MinhashDedupSignature):  # type: ignore[misc]
    """datatrove's MinHash signatures; a document shorter than an n-gram is hashed whole."""

    def get_shingles(self, text: str) -> np.ndarray[Any, Any]:
        shingles: np.ndarray[Any, Any] = super().get_shingles(text)
        if shingles.size:
            return shingles
        whole = simplify_text(text, self.config.norm_config) or text
        return np.array([[self._hash_func(whole)]], dtype=np.uint64)


class WriteShards(PipelineStep):  # type: ignore[misc]
    """Tokens between the two specials, as a complete folder of shards for this rank."""

    type, name = "TOKENIZER", "shards"

    def __init__(
        self, folder: str, tokenizer: str, begin: str | None, end: str | None, shard_tokens: int
    ) -> None:
        super().__init__()
        self.folder, self.tokenizer, self.shard_tokens = Path(folder), tokenizer, shard_tokens
        self.begin, self.end = begin, end

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> None:
        tokenizer = Tokenizer.from_file(self.tokenizer)
        begin = [tokenizer.special(self.begin)] if self.begin else []
        end = [tokenizer.special(self.end)] if self.end else []
        ids = ([*begin, *tokenizer.encode(document.text), *end] for document in data)
        vocabulary = Vocabulary.of(tokenizer)
        write_shards(
            ids, part(self.folder, rank), vocabulary, shard_tokens=self.shard_tokens, overwrite=True
        )


class Finish(PipelineStep):  # type: ignore[misc]
    """One index over all parts, then the report, before which the temporary files are removed."""

    type, name = "MERGER", "shards and report"

    def __init__(
        self,
        out: str,
        report: str,
        parts: int,
        stages: list[tuple[str, list[str]]],
        scratch: list[str],
    ) -> None:
        super().__init__()
        self.out = Path(out)
        self.report = Path(report)
        self.parts = parts
        self.stages = stages
        self.scratch = scratch

    def run(self, data: Documents | None, rank: int = 0, world_size: int = 1) -> None:
        shards = merge_shards([part(self.out, n) for n in range(self.parts)], self.out)
        steps = [step for logs, labels in self.stages for step in _steps(Path(logs), labels)]
        read = next((step["documents"] for step in steps if step["step"] == "read"), 0)
        counts = {"read": read, "kept": shards.documents, "tokens": shards.tokens}
        for folder in self.scratch:
            if Path(folder).exists():  # a signature is made only where duplicates are looked for
                shutil.rmtree(folder)
        write_json(self.report, {"documents": counts, "steps": steps})


class LocalTasks(LocalPipelineExecutor):  # type: ignore[misc]
    """datatrove's local executor, whose processes end with their parent; its log is in files only.

    datatrove keeps its ranks in a manager process, which survives a parent that was killed. So do
    the workers, which continue to write the files that the next run writes. Here each worker
    watches its parent, and holds `lock` while it lives. A worker that dies is an error instead of
    an endless wait.
    """

    def __init__(self, pipeline: list[PipelineStep], lock: str, **options: Any) -> None:
        super().__init__(pipeline, **options)
        self.lock = lock

    def run(self) -> None:
        ranks = self.get_incomplete_ranks()
        if not ranks:
            return
        self.save_executor_as_json()
        if self.workers == 1:
            for rank in ranks:
                own = deepcopy(self)  # blocks count: those of each task for themselves
                own._run_for_rank(rank)
            setup_default_logger()  # the last task had its own, on an error stream that is gone
            return
        # a fork of this process could hang where it has threads
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__])
        workers = min(self.workers, len(ranks))
        pool = ProcessPoolExecutor(workers, context, initializer=_tie, initargs=(self.lock,))
        try:
            with pool:
                running = [pool.submit(self._run_for_rank, rank) for rank in ranks]
                for done in as_completed(running):
                    done.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that prepared text was killed, out of memory perhaps: use fewer "
                "workers, then go on by running it again; the logs are in "
                f"{self.logging_dir.path}"
            ) from error

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with redirect_stderr(io.StringIO()):
            return super()._run_for_rank(rank, local_rank, node_rank)


def _tie(lock: str) -> None:
    """In a worker: hold the lock, and end when the process that started the run has ended.

    The worker's own parent is the fork server, which lives as long as its workers, so its end would
    not be a sign.
    """
    _held.append(open(lock, "ab"))  # noqa: SIM115 - until the process ends
    fcntl.flock(_held[0], fcntl.LOCK_SH)
    wanted_by = parent_process()
    assert wanted_by is not None
    threading.Thread(target=_end_with, args=(wanted_by,), daemon=True).start()


def _end_with(process: Any) -> None:
    process.join()
    os._exit(1)


def part(folder: Path, rank: int) -> Path:
    return folder / "parts" / f"{rank:05}"


def _steps(logs: Path, labels: list[str]) -> list[dict[str, Any]]:
    """The counts of each labelled block of a stage, all ranks together."""
    totals = [Counter[str]() for _ in labels]
    for path in sorted((logs / "stats").glob("*.json")):
        blocks = json.loads(path.read_bytes())
        for counted, block in zip(totals, blocks, strict=True):
            for name, value in block["stats"].items():
                total = value["total"] if isinstance(value, dict) else value
                counted[name] += int(total)
    labelled = zip(labels, totals, strict=True)
    return [_step(label, counted) for label, counted in labelled if label]


def _step(label: str, counted: Counter[str]) -> dict[str, Any]:
    step: dict[str, Any] = {
        "step": label,
        "documents": counted["total"],
        "removed": counted["dropped"],
    }
    if label == "hazard":
        step["escalated"] = counted["escalated"]
    why = {}
    for name in sorted(counted):
        if name.startswith("dropped_"):
            reason = name.removeprefix("dropped_")
            why[reason] = counted[name]
    if why:
        step["why"] = why
    return step
