"""How much speed is left where others use the cores too: beside busy processes, beside a second
ossia, beside training.

    python bench/busy.py [MODEL ...] [--variant NAME=SRC] [--rounds 5] [--seconds 1.5] [--only LIST]

MODEL is nano (the default) or a folder, such as `ossia convert --random gpt-oss-20b DIR --layers 2`
makes; weights stay in the mapped file, so that several processes hold one copy. `--variant
old=../other/src` measures a second source tree of ossia in the same rounds: a before and after.
Each situation lasts `--seconds`, in turns, medians over rounds.

    alone      nothing else, as far as this script knows; `others` says how many cores the rest of
               the machine used
    busy       beside one endless loop for every core: the fair share is one half
    pair       two ossia processes, each with all threads: the slower of the two
    training   beside nano's training with all threads

Speeds beside others are shares of the speed alone. What does not depend on who else is there:
milliseconds of processor time a token, and how often a token's threads fell asleep (voluntary
context switches) or lost their core (involuntary ones).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ossia.commands import machine

CORES = machine.processors()
TICK = os.sysconf("SC_CLK_TCK")
SITUATIONS = ("alone", "busy", "pair", "training")
PROMPT = 256  # tokens
DEPTH = 512  # tokens after which a decoding stream begins anew


@dataclass(frozen=True)
class Sample:
    """What one process did in one situation."""

    tokens: int
    seconds: float
    cpu: float  # seconds
    asleep: int  # voluntary context switches
    preempted: int  # involuntary ones
    others: float = 0.0  # cores

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


Samples = dict[tuple[str, str, str], list[Sample]]  # by variant, what, situation


# ---- in a process of its own ----


def work(model: str) -> None:
    """Answers lines "WHAT SECONDS" on stdin with a `Sample` each; `model` may be "training"."""
    run = training() if model == "training" else inference(model)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        what, seconds = line.split()
        print(json.dumps(measured(run(what), float(seconds)).__dict__), flush=True)


def measured(steps: Iterator[int], seconds: float) -> Sample:
    """Runs steps, each worth some tokens, for so long."""
    next(steps)  # finds everything in place
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    tokens = 0
    while (took := time.perf_counter() - began) < seconds or not tokens:
        tokens += next(steps)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(
        tokens, took, cpu, after.ru_nvcsw - before.ru_nvcsw, after.ru_nivcsw - before.ru_nivcsw
    )


def inference(model: str) -> Callable[[str], Iterator[int]]:
    from ossia import llm
    from ossia.engine import Engine, SamplingParams
    from ossia.serving import Options

    loaded = llm.load(model, options=Options(loading="map"))
    if loaded.serving.promotion:
        loaded.serving.promotion.wait()

    def requests(prompt: int, tokens: int) -> Iterator[int]:
        """Tokens read or written by each step of one request after another."""
        rng = random.Random(0)
        while True:
            engine = Engine(
                loaded.model, capacity=prompt + tokens + 64, max_running=1, max_batch_tokens=prompt,
                prefix_cache=False, speculate=False, latency_target=None,
            )  # fmt: skip
            ids = [rng.randrange(loaded.config.vocab_size) for _ in range(prompt)]
            engine.submit(ids, SamplingParams(temperature=1, seed=1, max_tokens=tokens))
            while engine.has_work():
                made = len(engine.step())
                yield made * prompt if tokens == 1 else made

    return lambda what: requests(PROMPT, 1) if what == "prefill" else requests(1, DEPTH)


def training() -> Callable[[str], Iterator[int]]:
    """nano on random tokens, its steps in as many threads as there are cores."""
    from ossia.config import ModelConfig
    from ossia.data.packing import Example, pack
    from ossia.train.balance import Balancer
    from ossia.train.run import Hyperparameters, Run
    from ossia.train.step import ThreadedStep
    from ossia.train.weights.export import start

    config = ModelConfig.preset("nano")
    rng = random.Random(0)

    def examples(state: object) -> Iterator[tuple[Example, int]]:
        while True:
            ids = [rng.randrange(config.vocab_size) for _ in range(PROMPT + 1)]
            yield Example(ids, [False] + [True] * PROMPT), 0

    hyper = Hyperparameters(
        tokens_per_step=4 * PROMPT, longest=PROMPT, optimizer="adamw", shards=CORES
    )
    run = Run("busy", config, examples, 1_000_000, hyper, Path("/nowhere"), device="cpu")
    model = start(run)
    trainer = ThreadedStep(model, run, Balancer(model, hyper.balance, run.steps))

    def steps() -> Iterator[int]:
        for batch, _ in pack(examples(None), hyper.tokens_per_step, hyper.longest):
            trainer.step(batch, 1e-3)
            yield len(batch.tokens)

    return lambda what: steps()


# ---- here ----


class Worker:
    """A process that has loaded its model and waits for orders."""

    def __init__(self, model: str, src: str | None) -> None:
        environment = os.environ | ({"PYTHONPATH": src} if src else {})
        command = [sys.executable, __file__, "--work", model]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        self.pid = self.process.pid

    def ask(self, what: str, seconds: float) -> None:
        assert self.process.stdin is not None
        print(what, seconds, file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a process ended early; what it said stands above")
        found: dict[str, float] = json.loads(line)
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def busy_cores(count: int) -> Iterator[list[int]]:
    """So many processes that compute without end."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.2)
    try:
        yield [loop.pid for loop in loops]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def cpu_of(pids: Sequence[int]) -> float:
    """Seconds of processor time of these processes."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICK


def cpu_of_others(pids: Sequence[int]) -> float:
    """Seconds of processor time of all processes but these."""
    everything = machine.busy_seconds()
    assert everything is not None, "cpu_of needs /proc as well"
    return everything - cpu_of(pids)


def together(
    workers: Sequence[Worker], orders: Sequence[str], seconds: float, also: Sequence[int]
) -> list[Sample]:
    """One order for each worker, at the same time. `also`: processes that are no strangers."""
    pids = [os.getpid(), *(worker.pid for worker in workers), *also]
    strangers = cpu_of_others(pids)
    began = time.perf_counter()
    for worker, order in zip(workers, orders, strict=True):
        worker.ask(order, seconds)
    answers = [worker.answer() for worker in workers]
    others = (cpu_of_others(pids) - strangers) / (time.perf_counter() - began)
    return [Sample(**(answer | {"others": others})) for answer in answers]  # type: ignore[arg-type]


def situation(
    name: str, what: str, pair: Sequence[Worker], trainer: Worker | None, seconds: float
) -> Sample:
    if name == "busy":
        with busy_cores(CORES) as loops:
            return together(pair[:1], [what], seconds, loops)[0]
    if name == "pair":
        return min(together(pair, [what] * 2, seconds, []), key=lambda sample: sample.speed)
    if name == "training":
        assert trainer is not None
        return together([pair[0], trainer], [what, "steps"], seconds, [])[0]
    return together(pair[:1], [what], seconds, [])[0]


def measure(
    model: str, variants: dict[str, str | None], args: argparse.Namespace, names: Sequence[str]
) -> Samples:
    found: Samples = defaultdict(list)
    with ExitStack() as stack:

        def started(model: str, src: str | None) -> Worker:
            worker = Worker(model, src)
            stack.callback(worker.end)
            worker.answer()
            return worker

        trainer = started("training", None) if "training" in names else None
        pairs = {name: [started(model, src) for _ in range(2)] for name, src in variants.items()}
        order = list(pairs)
        for _ in range(args.rounds):
            for name in names:
                for what in ("prefill", "decode"):
                    for variant in order:
                        sample = situation(name, what, pairs[variant], trainer, args.seconds)
                        found[variant, what, name].append(sample)
            order = order[1:] + order[:1]
    return found


def table(model: str, found: Samples, variants: Sequence[str], names: Sequence[str]) -> str:
    lines = [
        f"\n{model}: {'':<15}{'tokens/s':>10}{'of alone':>10}{'(range)':>14}{'ms cpu/token':>14}"
    ]
    lines[0] += f"{'asleep':>9}{'preempted':>11}   a token{'others':>9}"
    for what in ("prefill", "decode"):
        for name in names:
            for variant in variants:
                lines.append(line(found, variant, what, name))
    return "\n".join(lines)


def line(found: Samples, variant: str, what: str, name: str) -> str:
    samples = found[variant, what, name]
    speeds = [sample.speed for sample in samples]
    alone = statistics.median(sample.speed for sample in found[variant, what, "alone"])

    def middle(value: Callable[[Sample], float]) -> float:
        return statistics.median(value(sample) for sample in samples)

    speed = statistics.median(speeds)
    share = f"{min(speeds) / alone:.2f} - {max(speeds) / alone:.2f}"
    cells = [
        f"{what:<9}{name:<10}{variant:<8}{speed:>10.1f}{speed / alone:>10.2f}",
        f"{share:>14}{middle(lambda s: 1e3 * s.cpu / s.tokens):>14.3f}",
        f"{middle(lambda s: s.asleep / s.tokens):>9.2f}",
        f"{middle(lambda s: s.preempted / s.tokens):>11.2f}{'':>10}",
        f"{middle(lambda s: s.others):>9.2f}",
    ]
    return "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["nano"], metavar="MODEL")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME=SRC", help="a second source tree"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="of each situation (default: 1.5)"
    )
    parser.add_argument("--only", default=",".join(SITUATIONS), help="situations, comma-separated")
    parser.add_argument("--work", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work)
        return
    variants: dict[str, str | None] = {"here": None}
    variants |= dict(variant.split("=", 1) for variant in args.variant)
    names = ["alone", *(name for name in args.only.split(",") if name != "alone")]
    for model in args.models:
        found = measure(model, variants, args, names)
        print(table(model, found, list(variants), names), flush=True)


if __name__ == "__main__":
    main()
