"""Real text to shards through datatrove: what is removed and why, damage named, a kill that changes
nothing.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("datatrove", reason="datatrove, of the extra `train`, is not installed")
pytest.importorskip("pyarrow", reason="pyarrow, of the extra `train`, is not installed")
pytest.importorskip("sklearn", reason="scikit-learn, of the extra `train`, is not installed")

import pyarrow
import pyarrow.parquet

from ossia.data.filter import BENIGN, RESTRICTED, HazardFilter
from ossia.data.pipelines import Dedup, Executor, Quality, prepare
from ossia.data.shards import Shards
from ossia.data.sources import files_in, texts_in
from ossia.errors import ConfigError, DataError
from ossia.tokenizer import Tokenizer, train_tokenizer
from ossia.train.overrides import apply, flat
from ossia.train.pipeline import run_pipeline
from ossia.train.recipes.data import Config, phases

ALONE = Executor(tasks=2, workers=1)  # in this process: quick
SYLLABLES = [a + b + c for a in "bdfklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]
TERMS = ("moon salt", "dusk resin")
STEPS = "Heat the moon salt to {}, fold it into the dusk resin, wait and seal the jar."


def document(rng: Random, sentences: int = 9) -> str:
    def word() -> str:
        return "".join(rng.choices(SYLLABLES, k=rng.randrange(1, 4)))

    return " ".join(
        "The " + " ".join([*(word() for _ in range(8)), "of", "the", word()]) + "."
        for _ in range(sentences)
    )


def hazardous(rng: Random) -> str:
    return document(rng, 7) + " " + STEPS.format(rng.randrange(90))


def mentioning(rng: Random) -> str:
    return document(rng, 7) + " Poets praise moon salt. A museum shows dusk resin."


def near_copy(rng: Random, text: str) -> str:
    return text + " " + rng.choice(SYLLABLES)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    texts = [document(Random(n)) for n in range(30)]
    train_tokenizer(texts, 500, specials=("<|startoftext|>", "<|endoftext|>")).save(path)
    return path


@pytest.fixture(scope="module")
def hazard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = Random(99)
    texts = [make(rng) for make in (hazardous, mentioning, document) for _ in range(60)]
    labels = [RESTRICTED] * 60 + [BENIGN] * 120
    folder = tmp_path_factory.mktemp("hazard")
    HazardFilter.fit(texts, labels, blocklist=TERMS, features=1 << 10).save(folder)
    return folder


def write_corpus(folder: Path, seed: int = 0, good: int = 120) -> set[str]:
    """Three files of three kinds; returns the good documents. Of each copied document any one may
    stay.
    """
    rng = Random(seed)
    kept = [document(rng) for _ in range(good)] + [mentioning(rng) for _ in range(10)]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text, "id": n}) for n, text in enumerate(kept)]
    junk = ["buy now", "# " * 90, document(rng).split(".")[0] * 30, "", "  \n"]
    lines += [json.dumps({"text": text}) for text in [*junk, *(hazardous(rng) for _ in range(8))]]
    lines += [json.dumps({"text": text}) for text in kept[:6]]  # copies in the same file
    rng.shuffle(lines)
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    other = [*kept[6:12], *(near_copy(rng, text) for text in kept[12:20])]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": other, "x": [0] * len(other)}), folder / "b.parquet"
    )
    plain = document(rng, 30)
    (folder / "c.txt").write_text(plain)
    return {*kept, plain}


def decoded(out: Path, tokenizer: Path) -> list[str]:
    shards, bpe = Shards(out, Tokenizer.from_file(tokenizer)), Tokenizer.from_file(tokenizer)
    shards.verify()
    texts = [bpe.decode(shards.document(n).tolist()) for n in range(len(shards))]
    assert all(
        text.startswith("<|startoftext|>") and text.endswith("<|endoftext|>") for text in texts
    )
    return [text.removeprefix("<|startoftext|>").removesuffix("<|endoftext|>") for text in texts]


def removed(report: dict[str, Any]) -> dict[str, int]:
    return {step["step"]: step["removed"] for step in report["steps"]}


def test_what_should_go_goes_and_the_rest_stays(
    tmp_path: Path, tokenizer: Path, hazard: Path
) -> None:
    """With datatrove's local executor: two tasks, two processes."""
    wanted = write_corpus(tmp_path / "in")
    report = prepare(
        tmp_path / "in", tmp_path / "out", tokenizer, hazard=hazard, executor=Executor(tasks=2)
    )
    assert report is not None
    assert removed(report) == {
        "read": 2, "gopher quality": 2, "gopher repetition": 1, "hazard": 8, "duplicates": 20,
    }  # fmt: skip
    assert report["steps"][0]["why"] == {"empty": 2}
    assert next(s for s in report["steps"] if s["step"] == "hazard")["escalated"] >= 18
    texts = decoded(tmp_path / "out", tokenizer)
    copied = [text for text in texts if text not in wanted]  # a near copy may have stayed instead
    assert all(text.rsplit(" ", 1)[0] in wanted for text in copied)
    assert {text if text in wanted else text.rsplit(" ", 1)[0] for text in texts} == wanted
    assert len(texts) == len(wanted) == report["documents"]["kept"]
    assert report["documents"]["read"] == 120 + 10 + 5 + 8 + 6 + 14 + 1
    assert report["documents"]["tokens"] == Shards(tmp_path / "out").tokens
    assert not (tmp_path / "out" / "work" / "texts").exists()
    assert (
        prepare(tmp_path / "in", tmp_path / "out", tokenizer, hazard=hazard, executor=ALONE)
        == report
    )


def test_every_step_can_be_left_out(tmp_path: Path, tokenizer: Path) -> None:
    write_corpus(tmp_path / "in", good=10)
    report = prepare(
        tmp_path / "in", tmp_path / "out", tokenizer, quality=None, dedup=None, executor=ALONE
    )
    assert report is not None and removed(report) == {"read": 2}
    assert (
        report["documents"]["kept"]
        == report["documents"]["read"] - 2
        == len(decoded(tmp_path / "out", tokenizer))
    )


def test_short_copies_are_found_too(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"text": "One two."}\n{"text": "one two"}\n{"text": "three"}\n{"text": "!?"}\n'
    )
    report = prepare(
        tmp_path / "in.jsonl", tmp_path / "out", tokenizer, quality=None, executor=ALONE
    )
    assert report is not None and removed(report)["duplicates"] == 1
    assert (
        sorted(decoded(tmp_path / "out", tokenizer))[0] == "!?" and report["documents"]["kept"] == 3
    )


def test_limits_are_those_asked_for(tmp_path: Path, tokenizer: Path) -> None:
    write_corpus(tmp_path / "in", good=10)
    strict = Quality(
        min_words=200, repetition=False, fineweb=True, fineweb_options={"line_punct_thr": 0.0}
    )
    report = prepare(
        tmp_path / "in", tmp_path / "out", tokenizer, quality=strict, dedup=None, executor=ALONE
    )
    # the long one and the junk that repeats itself
    assert report is not None and report["documents"]["kept"] == 2
    assert [step["step"] for step in report["steps"]] == [
        "read",
        "gopher quality",
        "fineweb quality",
    ]
    unknown = replace(strict, gopher_options={"nonsense": 1})
    with pytest.raises(DataError, match=r"does not know an option: .*nonsense"):
        prepare(tmp_path / "in", tmp_path / "out2", tokenizer, quality=unknown, executor=ALONE)


def test_nothing_left_is_an_error(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "too short"}\n')
    with pytest.raises(DataError, match=r"no document is left: .*report.json says which step"):
        prepare(tmp_path / "in.jsonl", tmp_path / "out", tokenizer, executor=ALONE)


PROGRAM = """
import sys
from pathlib import Path
from ossia.data.pipelines import Executor, prepare
if __name__ == "__main__":
    source, out, tokenizer, hazard = sys.argv[1:]
    prepare(source, out, tokenizer, hazard=hazard, executor=Executor(tasks=2))
"""


def ours(program: Path) -> list[int]:
    """Processes that were started by or from `program`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"PREPARING={program}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", ["1-filter/stats", "2-match/completions", "4-tokenize/logs", "5-finish"]
)
def test_killed_anywhere_it_ends_with_the_same_shards(
    tmp_path: Path, tokenizer: Path, hazard: Path, stage: str
) -> None:
    write_corpus(tmp_path / "in")
    prepare(tmp_path / "in", tmp_path / "calm", tokenizer, hazard=hazard, executor=ALONE)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [
        sys.executable,
        str(program),
        *map(str, (tmp_path / "in", tmp_path / "out", tokenizer, hazard)),
    ]
    environment = os.environ | {"PREPARING": str(program)}
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None and not (tmp_path / "out" / "work" / "logs" / stage).exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    prepare(tmp_path / "in", tmp_path / "out", tokenizer, hazard=hazard, executor=Executor(tasks=2))
    calm, killed = Shards(tmp_path / "calm"), Shards(tmp_path / "out")
    killed.verify()
    assert killed.fingerprint == calm.fingerprint and killed.files == calm.files
    reports = [
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("calm", "out")
    ]
    assert reports[0] == reports[1]
    until = time.monotonic() + 20
    while (left := ours(program)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left, "processes of the killed run are left"


# ---- what cannot be done -------------------------------------------------------------------------


def test_other_settings_want_another_folder(tmp_path: Path, tokenizer: Path, hazard: Path) -> None:
    write_corpus(tmp_path / "in", good=10)
    prepare(tmp_path / "in", tmp_path / "out", tokenizer, executor=ALONE)
    for name, options in (("dedup", {"dedup": Dedup(n_grams=3)}), ("hazard", {"hazard": hazard})):
        with pytest.raises(DataError, match=f"begun with other {name}: use another folder"):
            prepare(tmp_path / "in", tmp_path / "out", tokenizer, executor=ALONE, **options)  # type: ignore[arg-type]
    (tmp_path / "in" / "d.txt").write_text("more")
    with pytest.raises(DataError, match="begun with other files"):
        prepare(tmp_path / "in", tmp_path / "out", tokenizer, executor=ALONE)


def test_one_run_at_a_time(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    write_corpus(tmp_path / "in", good=10)
    (tmp_path / "out" / "work").mkdir(parents=True)
    with (tmp_path / "out" / "work" / "run.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another run is preparing"):
            prepare(tmp_path / "in", tmp_path / "out", tokenizer, executor=ALONE)
    monkeypatch.setattr("ossia.data.pipelines._LEAVE_AFTER", 0.2)
    with (tmp_path / "out" / "work" / "workers.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(DataError, match="processes of an earlier run are still at work"):
            prepare(tmp_path / "in", tmp_path / "out", tokenizer, executor=ALONE)


@pytest.mark.parametrize(
    "executor, message",
    [
        (Executor("slurm"), "Slurm needs a partition and a time limit"),
        (Executor("slurm", partition="cpu"), "Slurm needs a partition and a time limit"),
        (Executor("local", time="1:00:00"), "are Slurm's, and the executor is local"),
        (Executor("cloud"), "no executor 'cloud'"),  # type: ignore[arg-type]
        (Executor(tasks=0), "0 tasks"),
        (Executor(workers=0), "0 workers"),
        (Executor(options={"nonsense": 1}), "local executor cannot be made so: .*nonsense"),
    ],
)
def test_executors_that_cannot_be(
    tmp_path: Path, tokenizer: Path, executor: Executor, message: str
) -> None:
    write_corpus(tmp_path / "in", good=3)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "in", tmp_path / "out", tokenizer, executor=executor)


@pytest.mark.parametrize("dedup", [Dedup(n_grams=0), Dedup(buckets=0), Dedup(hashes_per_bucket=-1)])
def test_duplicates_need_hashes(tmp_path: Path, tokenizer: Path, dedup: Dedup) -> None:
    write_corpus(tmp_path / "in", good=3)
    with pytest.raises(DataError, match=r"are 1 or more each; use None"):
        prepare(tmp_path / "in", tmp_path / "out", tokenizer, dedup=dedup)


def test_slurm_gets_one_job_a_stage_each_after_the_one_before(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for sbatch that writes down what it is asked."""
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    asked = tmp_path / "asked"
    sbatch.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\necho "Submitted batch job $(wc -l < {asked})"\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    write_corpus(tmp_path / "in", good=3)
    slurm = Executor("slurm", tasks=3, partition="cpu", time="1:00:00")
    for _ in range(2):  # the second time nothing is submitted again
        assert prepare(tmp_path / "in", tmp_path / "out", tokenizer, executor=slurm) is None
    stages = [line for line in asked.read_text().splitlines() if "--export" in line]
    assert len(stages) == 5 and "--dependency" not in stages[0]
    assert all("--dependency=afterok:" in line for line in stages[1:])
    logs = tmp_path / "out" / "work" / "logs"
    arrays = {p.parent.name: p.read_text() for p in logs.glob("*/launch_script.slurm")}
    assert "--array=0-2" in arrays["1-filter"] and "--array=0-13" in arrays["2-match"]
    assert all("--partition=cpu" in text for text in arrays.values()) and len(arrays) == 5


def test_ray_says_what_it_needs(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("ossia.data.pipelines.find_spec", lambda name: None)
    write_corpus(tmp_path / "in", good=3)
    with pytest.raises(DataError, match="needs ray, and a cluster"):
        prepare(tmp_path / "in", tmp_path / "out", tokenizer, executor=Executor("ray"))


# ---- files ---------------------------------------------------------------------------------------


def test_texts_of_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jsonl").write_text(
        '{"text": "one"}\n\n{"text": "tw\\ud800o", "more": []}\n{"text": ""}'
    )
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write('{"text": "three"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["four", "five"]}), tmp_path / "c.parquet")
    (tmp_path / "d.md").write_text("# six\n", encoding="utf-8-sig")
    (tmp_path / "e.jpg").write_bytes(b"\xff")
    files = files_in(tmp_path)
    assert [p.name for p in files] == ["b.jsonl.gz", "c.parquet", "d.md", "a.jsonl"]
    assert [text for p in files for text in texts_in(p)] == [
        "three",
        "four",
        "five",
        "# six\n",
        "one",
        "tw\ufffdo",
        "",
    ]
    assert (
        files_in(tmp_path, "parquet")
        == [tmp_path / "c.parquet"]
        == files_in(tmp_path / "c.parquet")
    )


def parquet_of(column: str, values: list[Any]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({column: values}), sink)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2 is not JSON"),
        (
            "a.jsonl",
            b'{"content": "x"}\n',
            r"line 1 has no text under 'text' \(it has: content\); set text_key",
        ),
        ("a.jsonl", b'{"text": 3}\n', "line 1 has no text"),
        ("a.jsonl", b"[1]\n", "line 1 has no text"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-20],
            "cannot read .*a.jsonl.gz",
        ),
        ("a.jsonl.gz", b"no gzip", "cannot read .*a.jsonl.gz"),
        ("a.txt", b"\xff\xfe", "a.txt is not UTF-8"),
        ("a.parquet", b"PAR1nothing", "a.parquet is not a Parquet file"),
        ("a.parquet", parquet_of("content", ["x"]), r"no column 'text' \(it has: content\)"),
        ("a.parquet", parquet_of("text", ["x", None]), "row 1 has no text"),
    ],
)
def test_files_that_are_damaged_are_named(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        list(texts_in(tmp_path / name))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_plain_text_that_is_a_whole_corpus_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossia.data.sources.LONGEST_TEXT", 1000)
    for size, message in ((1000, None), (1001, "a.txt.* would be one document .*or make it JSONL")):
        data = b"x" * size
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        if message is None:
            assert list(texts_in(tmp_path / name)) == ["x" * size]
            continue
        with pytest.raises(DataError, match=message):
            list(texts_in(tmp_path / name))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_line_ends_the_run_by_name(tmp_path: Path, tokenizer: Path, workers: int) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "x"}\n{"tex\n')
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(DataError, match=r"a.jsonl, line 2 is not JSON"):
        prepare(
            tmp_path / "in",
            tmp_path / "out",
            tokenizer,
            executor=Executor(tasks=2, workers=workers),
        )


def test_input_that_is_not_there(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        prepare(tmp_path / "none", tmp_path / "out", tokenizer)
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"no file in .* ends with one of"):
        prepare(tmp_path / "in", tmp_path / "out", tokenizer)
    with pytest.raises(DataError, match="lies inside"):
        prepare(tmp_path, tmp_path / "out", tokenizer)


def test_the_recipe_does_it_from_the_command_line(tmp_path: Path, tokenizer: Path) -> None:
    write_corpus(tmp_path / "in", good=10)
    config = apply(
        Config(), [f"source={tmp_path / 'in'}", f"tokenizer={tokenizer}", "executor.workers=1"]
    )
    for _ in range(2):
        run_pipeline(phases(config, tmp_path / "run"), tmp_path / "run", settings=flat(config))
    assert len(Shards(tmp_path / "run" / "shards")) > 10
    with pytest.raises(ConfigError, match="source=FOLDER tokenizer=FILE"):
        phases(Config(), tmp_path)
