"""Turn files of text into shards to train on: clean, drop the hazardous and the double, tokenize.

    ossia train data source=texts tokenizer=tokenizer.json --out runs/web

One phase, `shards`: the pipeline of `data/pipelines.py`, whose report is printed. Knows the order
of things, no more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ossia.data.pipelines import Dedup, Executor, Quality, prepare
from ossia.data.sources import Kind, files_in
from ossia.errors import ConfigError, DataError
from ossia.train.pipeline import Phase


@dataclass(frozen=True)
class Config:
    """What `key=value` can set. `source` and `tokenizer` must be given."""

    source: Path | None = None  # a folder of texts, or one file
    tokenizer: Path | None = None  # a tokenizer.json
    kind: Kind = "auto"  # of files that are read; auto: all that can be
    text_key: str = "text"  # of JSONL and Parquet
    clean: bool = True  # rules for web text
    quality: Quality = Quality()  # noqa: RUF009 - frozen
    deduplicate: bool = True
    dedup: Dedup = Dedup()  # noqa: RUF009
    hazard: Path | None = None  # a folder with a hazard filter
    executor: Executor = Executor()  # noqa: RUF009
    begin: str | None = "<|startoftext|>"  # special before every document
    end: str | None = "<|endoftext|>"  # and after it
    keep: bool = False  # filtered texts and signatures too


def phases(config: Config, out: Path) -> Sequence[Phase]:
    """What there is to do. Raises `ConfigError` if no source or no tokenizer is given."""
    if config.source is None or config.tokenizer is None:
        raise ConfigError(
            "say what to read and what with: source=FOLDER tokenizer=FILE, a tokenizer.json"
        )
    given = (config.source, config.tokenizer, config.hazard)
    needs = tuple(path for path in given if path is not None)
    return [
        Phase(
            name="shards",
            does="Clean and tokenize the texts into shards.",
            run=lambda: write(config, out / "shards"),
            needs=needs,
            disk=_bytes(config.source, config.kind),
        )
    ]


def write(config: Config, folder: Path) -> None:
    """The shards in `folder`; prints the report. Raises `DataError` while jobs on a cluster are not
    done.
    """
    assert config.source is not None and config.tokenizer is not None
    report = prepare(
        config.source,
        folder,
        config.tokenizer,
        kind=config.kind,
        text_key=config.text_key,
        quality=config.quality if config.clean else None,
        dedup=config.dedup if config.deduplicate else None,
        hazard=config.hazard,
        executor=config.executor,
        begin=config.begin,
        end=config.end,
        keep=config.keep,
    )
    if report is None:
        raise DataError(
            f"the jobs for {folder} are submitted and not done yet: run this again when they are"
        )
    print(json.dumps(report, indent=1))


def _bytes(source: Path, kind: Kind) -> int | None:
    """About what is written: the filtered texts, their signatures and the shards. Compressed text
    is taken times 4.
    """
    if not source.exists():
        return None
    total = 0
    for path in files_in(source, kind):
        times = 4 if path.suffix in (".gz", ".parquet") else 1
        total += times * path.stat().st_size
    return 3 * total
