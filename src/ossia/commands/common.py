"""What each command of `ossia` does with its arguments: load, ask, print.

Knows the arguments as `commands/main.py` names them. Imports the rest of ossia only inside the
commands: most need torch, and loading that is most of the time that a short one takes.
"""

from __future__ import annotations

import argparse
import codecs
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossia.errors import RequestError, TokenizerError

if TYPE_CHECKING:
    from ossia.llm import LLM, Generation
    from ossia.tasks.evals import Report
    from ossia.tokenizer import Tokenizer

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens")


def _load(args: argparse.Namespace) -> LLM:
    """The model, with a word on the terminal while torch and the checkpoint are looked for."""
    quiet = not sys.stderr.isatty()
    if not quiet:
        print(f"loading {args.model} ...", end="\r", file=sys.stderr, flush=True)
    try:
        from ossia.commands.display import progress
        from ossia.llm import load
        from ossia.serving import Options

        options = Options(args.dense, args.activations, args.kv, args.loading, args.threads)
        with progress(f"loading {args.model}") as tell:
            return load(
                args.model, dtype=args.dtype, device=args.device, options=options,
                kv_memory=args.kv_memory, progress=tell,
            )  # fmt: skip
    finally:
        if not quiet:
            print(" " * (12 + len(args.model)), end="\r", file=sys.stderr, flush=True)


def chat(args: argparse.Namespace) -> None:
    llm = _load(args)
    from ossia.commands.chat import Screen, Session, answer_lines, interact
    from ossia.commands.display import is_styled
    from ossia.harmony import Effort
    from ossia.tasks import CALCULATOR, calculate
    from ossia.tasks import Tool as TaskTool

    tools = (TaskTool(CALCULATOR, calculate),) if args.calculator else ()
    session = Session(
        llm, Effort(args.effort), args.instructions, args.date, tools, _sampling(args)
    )
    llm.params(
        **session.sampling
    )  # values that make no sense are reported before the first question
    screen = Screen(sys.stdout, styled=is_styled(sys.stdout), reasoning=args.show_reasoning)
    if sys.stdin.isatty() and sys.stdout.isatty():
        interact(session, screen, args.model, keep_history=not args.no_history)
    else:
        answer_lines(session, sys.stdin, screen)


def generate(args: argparse.Namespace) -> None:
    text = None if args.ids is not None else _prompt(args)
    llm = _load(args)
    ids: list[int] = args.ids or []
    if text is not None:
        ids = (
            llm.tokenizer.encode_with_specials(text)
            if args.specials
            else llm.tokenizer.encode(text)
        )
    from ossia.commands.display import progress

    with progress("reading the prompt", "tokens") as tell:
        generation = llm.generate(ids, progress=tell, **_sampling(args))
        _print_generation(generation, llm, ids, args)


def _print_generation(
    generation: Generation, llm: LLM, ids: list[int], args: argparse.Namespace
) -> None:
    if not args.json:
        _print_text(generation, llm.maybe_tokenizer, args.specials)
        return
    new = list(generation)
    answer: dict[str, Any] = {"prompt_ids": ids, "ids": new, "text": None}
    if llm.maybe_tokenizer is not None:
        answer["text"] = "".join(_pieces(new, llm.maybe_tokenizer, args.specials))
    print(
        json.dumps(
            answer | {"finish_reason": generation.finish_reason, "logprobs": generation.logprobs}
        )
    )


def _prompt(args: argparse.Namespace) -> str:
    if args.prompt is not None:
        return str(args.prompt)
    if args.prompt_file is not None:
        try:
            return Path(args.prompt_file).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise RequestError(f"--prompt-file {args.prompt_file}: {error.strerror}") from error
    if sys.stdin.isatty():
        print("reading the prompt from the terminal; Ctrl-D ends it", file=sys.stderr)
    return sys.stdin.read()


def _print_text(generation: Generation, tokenizer: Tokenizer | None, specials: bool) -> None:
    """As it comes. A model without a tokenizer answers in ids."""
    from ossia.commands.display import visible

    pieces: Iterator[str] = (f"{token} " for token in generation)
    if tokenizer is not None:
        pieces = _pieces(generation, tokenizer, specials)
    for piece in pieces:
        print(visible(piece) if sys.stdout.isatty() else piece, end="", flush=True)
    print()


def _pieces(ids: Iterable[int], tokenizer: Tokenizer, specials: bool) -> Iterator[str]:
    """Text as soon as it is certain: the first bytes of a character wait for the rest of it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        if specials or not tokenizer.is_special(token):
            try:
                yield decoder.decode(tokenizer.token_bytes(token))
            except TokenizerError:  # models have more rows than their tokenizer has tokens
                yield decoder.decode(b"\xff")
    yield decoder.decode(b"", final=True)


def info(args: argparse.Namespace) -> None:
    from ossia.commands.info import as_text, describe

    info = describe(args.model)
    print(json.dumps(info, indent=2) if args.json else as_text(info))


def convert(args: argparse.Namespace) -> None:
    if (args.src is None) == (args.random is None):
        raise RequestError("convert needs either SRC, a checkpoint to read, or --random PRESET")
    if args.to == "gguf" and args.random is not None:
        raise RequestError("--random writes safetensors; convert what it wrote to gguf afterwards")
    if args.dense and args.to != "gguf":
        raise RequestError("--dense is for --to gguf only")
    from ossia import checkpoint, hub
    from ossia.commands.display import progress
    from ossia.config import ModelConfig
    from ossia.figures import human_bytes

    replaced = {"overwrite": args.overwrite}
    with progress(f"writing {args.dst}", "bytes") as tell:
        if args.to == "gguf":
            checkpoint.write_gguf(
                hub.find(args.src), args.dst, args.dense or "bf16", tell, args.rule, **replaced
            )
        elif args.random is None:
            checkpoint.convert(hub.find(args.src), args.dst, args.to, tell, args.rule, **replaced)
        else:
            config = ModelConfig.preset(args.random)
            if args.layers:
                config = replace(config, num_hidden_layers=args.layers, layer_types=())
            checkpoint.write_random(config, args.dst, args.seed, args.to, tell, **replaced)
    written = Path(args.dst)
    files = sorted(written.iterdir()) if written.is_dir() else [written]
    sizes = {path.name: path.stat().st_size for path in files}
    for name, size in sizes.items():
        print(f"{human_bytes(size):>12}  {name}")
    print(f"{human_bytes(sum(sizes.values())):>12}  in {args.dst}, layout {args.to}")
    if args.to == "gguf" and (
        note := checkpoint.computed_otherwise(checkpoint.open_checkpoint(args.dst).config)
    ):
        print(f"note: {note}", file=sys.stderr)


def evaluate(args: argparse.Namespace) -> None:
    from ossia.tasks import REGISTRY, TASKS, problems

    if unknown := set(args.task or ()) - set(REGISTRY):
        raise RequestError(f"there is no task {min(unknown)!r}; there are {', '.join(REGISTRY)}")
    llm = _load(args)
    from ossia.commands import respond
    from ossia.commands.display import progress
    from ossia.harmony import Effort
    from ossia.tasks.evals import cases

    tasks = list(dict.fromkeys(args.task or TASKS))
    efforts = [effort for effort in Effort if not args.effort or effort in args.effort]
    drawn = [p for task in tasks for p in problems(task, args.samples, args.problem_seed)]
    asked = list(cases(drawn, efforts))
    with progress("answering", "answers") as tell:
        report, cut = respond.evaluate(llm, asked, llm.params(**_sampling(args)), progress=tell)
    if args.json:
        _print_report(report, cut)
        return
    print(report)
    if cut:
        print(
            f"\n{cut} of {len(asked)} answers were cut after {args.max_tokens} tokens (--max-tokens)."
        )
    if args.failures:
        print(f"\n{report.failures(args.failures)}")


def _print_report(report: Report, cut: int) -> None:
    rows = []
    for task in (*report.tasks, None):
        for effort in report.efforts:
            share = report.accuracy(task, effort)
            row = {
                "task": task or "all",
                "effort": effort,
                "right": share.right,
                "asked": share.total,
            }
            rows.append(
                row | {"wilson_95": share.wilson(), "mean_tokens": report.tokens(effort, task)}
            )
    uses = {effort: report.tool_use(effort) for effort in report.efforts}
    calls = {effort: {"right": share.right, "asked": share.total} for effort, share in uses.items()}
    print(json.dumps({"accuracy": rows, "tool_use": calls, "cut": cut}, indent=2))


def bench(args: argparse.Namespace) -> None:
    """`--json` prints what `benchmark.run` returns and `load_s`; the table prints the same for
    reading.
    """
    import tempfile

    from ossia import checkpoint
    from ossia.commands import bench as benchmark
    from ossia.commands.display import progress
    from ossia.config import ModelConfig

    phases = benchmark.PHASES if args.phases is None else tuple(args.phases.split(","))
    benchmark.check(phases)
    with tempfile.TemporaryDirectory(prefix="ossia-bench-") as folder:
        if args.random is not None:
            args.model = str(Path(folder, "model"))
            with progress("writing random weights", "bytes") as tell:
                checkpoint.write_random(
                    ModelConfig.preset(args.random), args.model, 0, progress=tell
                )
        began = time.perf_counter()
        llm = _load(args)
        if llm.serving.promotion is not None:
            llm.serving.promotion.wait()
        if args.phases is None:
            phases = benchmark.fitting(llm, phases, args.repetitions)
        load_s = time.perf_counter() - began
        found = benchmark.run(
            llm,
            phases,
            args.repetitions,
            lambda what: print(what, end=" ", flush=True, file=sys.stderr),
        )
        print(file=sys.stderr)
    print(json.dumps(found | {"load_s": load_s}) if args.json else benchmark.as_text(found))
    for sentence in found["warnings"]:
        print(f"warning: {sentence}", file=sys.stderr)


def serve(args: argparse.Namespace) -> None:
    from ossia.commands import serve as serve_command

    serve_command.serve(args, lambda: _load(args))


def harmony_render(args: argparse.Namespace) -> None:
    from ossia.commands import harmony as harmony_command

    harmony_command.render(args)


def harmony_parse(args: argparse.Namespace) -> None:
    from ossia.commands import harmony as harmony_command

    harmony_command.parse(args)


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling values that were given; the model's own hold for the rest."""
    return {name: value for name in SAMPLING if (value := getattr(args, name)) is not None}
