"""`ossia bench`: its options, a model to measure, and what was found. What is measured, and how, is
`commands/speeds.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ossia.commands.options import Command, Computing, Positive, model, option

EPILOG = """\
phases, comma-separated:
  kernels_Nt  each kernel alone with N threads, in the shapes of gpt-oss-20b; one thread is timed by
              its processor time, so that other programs disturb it little
  prefill_N   tokens per second while a prompt of N random tokens is read
  decode_N    tokens per second of one stream after a prompt of N tokens
  batch_N     tokens per second of N streams together

The tables give each speed's share of the bound: for decoding the bytes that a step reads over the
measured read bandwidth, for prompts the operations over the measured peak of the instruction set in
use. The machine is measured before and after. A kernel below 40% of its bound is warned of.
OSSIA_ISA=NAME in the environment measures another instruction set that this CPU offers.

examples:
  ossia bench gpt-oss-20b
  ossia bench gpt-oss-20b --dense int8 --activations int8 --phases prefill_512,decode_0,decode_4096
  OSSIA_ISA=avx2 ossia bench --phases kernels_1t
  ossia bench --random gpt-oss-20b     random weights of that shape, 12.8 GiB in a temporary folder
"""


@dataclass(frozen=True)
class Options:
    """What `ossia bench` takes."""

    model: str = model()
    random: str | None = option(
        None,
        "instead of MODEL: random weights in the shape of gpt-oss-20b, gpt-oss-120b or nano",
        "PRESET",
    )
    phases: str | None = option(
        None,
        "what to measure, see below",
        "LIST",
        shown="kernels_1t,prefill_512,prefill_2048,decode_0,decode_4096,batch_8,batch_16",
    )
    repetitions: Positive = option(3, "of every phase", "N")
    json: bool = option(False, "print one JSON object instead of a table")
    computing: Computing = Computing()


def run(options: Options) -> None:
    """`--json` prints what `speeds.run` returns, and `load_s`; the tables say the same."""
    from ossia.commands import speeds

    phases: tuple[str, ...] = speeds.PHASES
    if options.phases is not None:
        phases = tuple(options.phases.split(","))
    speeds.check(phases)
    with tempfile.TemporaryDirectory(prefix="ossia-bench-") as folder:
        name = options.model
        if options.random is not None:
            name = str(Path(folder, "model"))
            _write_random(options.random, name)
        began = time.perf_counter()
        llm = options.computing.load_model(name)
        if llm.serving.promotion is not None:
            llm.serving.promotion.wait()
        if options.phases is None:
            phases = speeds.fitting(llm, phases, options.repetitions)
        load_s = time.perf_counter() - began
        found = speeds.run(llm, phases, options.repetitions, _tell)
        print(file=sys.stderr)
    print(json.dumps(found | {"load_s": load_s}) if options.json else speeds.as_text(found))
    for sentence in found["warnings"]:
        print(f"warning: {sentence}", file=sys.stderr)


def _write_random(preset: str, folder: str) -> None:
    from ossia import checkpoint
    from ossia.commands.display import progress
    from ossia.config import ModelConfig

    with progress("writing random weights", "bytes") as tell:
        checkpoint.write_random(ModelConfig.preset(preset), folder, 0, progress=tell)


def _tell(phase: str) -> None:
    print(phase, end=" ", flush=True, file=sys.stderr)


COMMAND = Command(Options, run, EPILOG)
