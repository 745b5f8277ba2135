"""`ossia eval`: questions of a suite, or problems of ossia's own tasks, answered by a model in this
process or behind a URL, and graded.

What there is to ask is for `ossia.evals` and `ossia.tasks` to say; how many conversations are
answered at once, for `commands/respond.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ossia.commands.judging import Judging
from ossia.commands.options import (
    Command,
    Computing,
    EffortWord,
    Positive,
    PositiveNumber,
    Sampling,
    model,
    option,
)
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.evals.questions import Question, Trial
    from ossia.evals.results import Header, Record
    from ossia.evals.run import Answer
    from ossia.evals.suites import Suite
    from ossia.tasks.evals import Report

EPILOG = """\
examples:
  ossia eval nano                                          nano's tasks at every effort
  ossia eval nano --task arithmetic --effort high --samples 500 --failures 10
  ossia eval gpt-oss-20b --suite gpqa --file gpqa_diamond.csv --dry-run
  ossia eval --url http://127.0.0.1:8000/v1 --suite aime --file aime25.jsonl
  ossia eval --results a.jsonl --results b.jsonl --plot efforts.png

A cell is the share of right answers (right/asked, 95% Wilson interval). An answer that --max-tokens
cuts is graded as it stands, and how many were cut is said below the table.

A suite is asked at temperature 1. Its answers go to a file as they come, and the same command goes
on with it after an interruption. docs/evals.md has the formats of files, and what a score means.
"""
TASK_TOKENS = 512  # an answer to one of the tasks may have, if --max-tokens does not say
TASK_SAMPLES = 50
CPU_SPEED = 75.0  # tokens a second: gpt-oss-20b on 16 streams of a CPU, see docs/log.md
SuiteName = Literal[
    "aime", "gpqa", "mmlu", "hle", "qa", "healthbench", "humaneval", "mbpp", "livecodebench"
]


@dataclass(frozen=True)
class Serving:
    """Of a model that answers elsewhere."""

    TITLE: ClassVar[str] = "a server's model"
    ABOUT: ClassVar[str | None] = "The key, if it wants one, is read from OPENAI_API_KEY."

    url: str | None = option(
        None, "ask an OpenAI-compatible server, such as http://127.0.0.1:8000/v1", "URL"
    )
    api: Literal["chat", "responses"] = option("chat", "which of its APIs")
    model_name: str | None = option(None, "of its models", "NAME", shown="its first")


@dataclass(frozen=True)
class Options:
    """What `ossia eval` takes."""

    model: str = model()
    suite: SuiteName | None = option(None, "ask a public suite, from --file")
    file: tuple[Path, ...] = option(
        (), "CSV, JSON, JSON lines or Parquet, gzipped or not; repeatable", "FILE"
    )
    samples: Positive | None = option(
        None, "problems a task, questions of a suite", "N", shown="50; all of a suite"
    )
    task: tuple[str, ...] = option(
        (),
        "such as arithmetic or 'world hops'; repeatable; an unknown one lists them all",
        "TASK",
        shown="the six of nano",
    )
    effort: tuple[EffortWord, ...] = option((), "repeatable", shown="all three")
    repeats: Positive | None = option(
        None, "times each question is asked", "N", shown="1; of aime and gpqa 8"
    )
    problem_seed: int = option(0, "which problems are drawn", "N")
    at_once: Positive = option(64, "answers that are made at the same time", "N")
    out: Path | None = option(
        None,
        "keep the answers here, and go on with what is there",
        "FILE",
        shown="of a suite: FILE.MODEL.jsonl, or FILE.server.jsonl",
    )
    results: tuple[Path, ...] = option(
        (), "show a file of answers, and ask nothing; with two, their difference too", "FILE"
    )
    plot: Path | None = option(None, "draw score against tokens, a .png or a .svg", "FILE")
    card: str | None = option(
        None,
        "model card's row in the plot: aime24, aime25, gpqa, hle, mmlu, mmmlu or healthbench",
        "ROW",
        shown="the suite's",
    )
    dry_run: bool = option(False, "say how many tokens and how much time it would take")
    speed: PositiveNumber = option(CPU_SPEED, "tokens a second, for --dry-run", "X")
    failures: Positive | None = option(None, "also print the first N wrong answers", "N")
    json: bool = option(False, "print one JSON object instead of a table")
    server: Serving = Serving()
    judging: Judging = Judging()
    computing: Computing = Computing()
    sampling: Sampling = Sampling()


def run(options: Options) -> None:
    from ossia.evals.results import Results
    from ossia.evals.run import run as ask_all

    _check_words(options)
    if options.results:
        _show_files(options)
        return
    if options.suite is None:
        options = _with_task_defaults(options, _tasks(options.task))
    suite, questions, left_out = _questions(options)
    if options.dry_run:
        _say_costs(options, _trials(options, suite, questions))
        return
    name, answer = _answering(options)
    trials = _trials(options, suite, questions)
    header = _header(options, name, left_out)
    path = _out(options) if suite else options.out
    from ossia.commands.display import progress

    with Results(header, path) as results, progress("answering", "answers") as tell:
        ask_all(trials, results, answer, tell)
        records = results.of(trials)
    if suite is None:
        _print_tasks(options, trials, records)
        return
    print(f"answers are in {path}", file=sys.stderr)
    _print_suite(options, header, records)


# ---- what is asked -------------------------------------------------------------------------------


def _check_words(options: Options) -> None:
    """Raises `RequestError` for options that contradict each other."""
    if options.suite and not options.file and not options.results:
        raise RequestError("a suite needs its questions: give --file", "file")
    if options.file and not options.suite:
        raise RequestError("say which suite the file is of, with --suite", "suite")
    if options.suite and options.task:
        raise RequestError("give either --suite or --task", "task")
    if options.server.url and not options.suite:
        raise RequestError("a server is asked suites: give --suite and --file", "url")
    if options.plot and options.plot.suffix.lower() not in (".png", ".svg"):
        raise RequestError(f"{options.plot}: a plot is a .png or a .svg file", "plot")
    from ossia.evals.card import SCORES

    if options.card is not None and options.card not in SCORES:
        raise RequestError(
            f"the card has no row {options.card!r}; there are {', '.join(SCORES)}", "card"
        )


def _tasks(named: tuple[str, ...]) -> list[str]:
    """The tasks named, each once, or those of nano. Raises `RequestError` for an unknown one."""
    from ossia.tasks import REGISTRY, TASKS

    if unknown := set(named) - set(REGISTRY):
        raise RequestError(f"there is no task {min(unknown)!r}; there are {', '.join(REGISTRY)}")
    return list(dict.fromkeys(named or TASKS))


def _with_task_defaults(options: Options, tasks: Sequence[str]) -> Options:
    sampling = options.sampling
    if sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=TASK_TOKENS)
    samples = options.samples or TASK_SAMPLES
    return replace(options, task=tuple(tasks), sampling=sampling, samples=samples)


def _questions(options: Options) -> tuple[Suite | None, list[Question], dict[str, int]]:
    """What is asked, and how many questions were left out, by reason."""
    from ossia.evals.questions import of_problem
    from ossia.evals.suites import SUITES, read
    from ossia.tasks import problems

    if options.suite is None:
        questions = []
        for task in options.task:
            drawn = problems(task, options.samples or TASK_SAMPLES, options.problem_seed)
            questions += [of_problem(problem, number) for number, problem in enumerate(drawn)]
        return None, questions, {}
    suite = SUITES[options.suite]
    questions, left_out = read(suite, options.file, _graders(options, suite))
    return suite, questions[: options.samples], left_out


def _graders(options: Options, suite: Suite) -> Any:
    """Raises `SandboxError` if code cannot be confined, `JudgeError` for a judge that is none."""
    from ossia.commands.judging import CriterionJudge, Nobody
    from ossia.evals.programs.functions import Sandboxed
    from ossia.evals.suites import Graders

    if options.dry_run:
        return Graders(Nobody(), Nobody())
    if "runner" in suite.needs:
        return Graders(runner=Sandboxed())
    if options.judging.judge is not None:
        out = _out(options)
        return Graders(CriterionJudge(options.judging, out.with_name(f"{out.name}.verdicts")))
    if "judge" in suite.needs:
        raise RequestError(
            f"{suite.name} is graded by a judge: name a server with --judge, such as one of "
            "gpt-oss-120b",
            "judge",
        )
    return Graders()


def _out(options: Options) -> Path:
    """Where a suite's answers are kept."""
    if options.out is not None:
        return options.out
    name = options.server.model_name or "server" if options.server.url else options.model
    return Path(f"{options.file[0].stem}.{name.replace('/', '-')}.jsonl")


def _trials(options: Options, suite: Suite | None, questions: Sequence[Question]) -> list[Trial]:
    from ossia.evals.questions import trials
    from ossia.harmony import Effort

    efforts = [effort for effort in Effort if not options.effort or effort in options.effort]
    repeats = options.repeats or (suite.repeats if suite else 1)
    return list(trials(questions, efforts, repeats, options.sampling.seed or 0))


# ---- who answers ---------------------------------------------------------------------------------


def _sampling(options: Options) -> dict[str, Any]:
    """A suite is asked at temperature 1, one of the tasks as the model likes."""
    given = options.sampling.given()
    given.pop("seed", None)  # each trial has its own
    if options.suite is not None:
        given.setdefault("temperature", 1.0)
    return given


def _answering(options: Options) -> tuple[str, Answer]:
    """The model's name, and what is given the trials."""
    sampling = _sampling(options)
    if options.server.url is None:
        llm = options.computing.load_model(options.model)
        from ossia.commands.respond import answers

        return options.model, answers(llm, llm.params(**sampling), options.at_once)
    from ossia.evals.endpoints import Endpoint

    endpoint = Endpoint(
        options.server.url,
        options.server.model_name or "",
        options.server.api,
        os.environ.get("OPENAI_API_KEY", ""),
        sampling,
        options.at_once,
    )
    if not endpoint.model:
        endpoint = replace(endpoint, model=endpoint.models()[0])
    return endpoint.model, endpoint.answer


def _header(options: Options, name: str, left_out: dict[str, int]) -> Header:
    """With all that an answer depends on; a server's address is not part of that."""
    from ossia.evals.results import Header

    settings: dict[str, Any] = {**_sampling(options), "seed": options.sampling.seed or 0}
    if options.server.url is not None:
        settings["api"] = options.server.api
    else:
        computing = options.computing
        for one in ("dtype", "dense", "activations", "kv", "experts", "adapter"):
            settings[one] = getattr(computing, one)
    if options.judging.judge is not None:
        settings["judge"] = options.judging.judge_model
    if options.suite is None:
        settings["problem_seed"] = options.problem_seed
    return Header(options.suite or "tasks", name, settings, left_out)


# ---- what it costs -------------------------------------------------------------------------------


def _say_costs(options: Options, trials: Sequence[Trial]) -> None:
    """About how many tokens, and how long they take: of lengths that were seen in --out, else of
    those that the model card shows.
    """
    from ossia.evals.costs import costs
    from ossia.evals.results import read_results

    records: list[Record] = []
    path = _out(options) if options.suite else options.out
    if path is not None and path.exists():
        records = read_results(path)[1]
    print(costs(options.suite or "tasks", options.model, trials, records, options.speed))


# ---- what is printed -----------------------------------------------------------------------------


def _print_suite(options: Options, header: Header, records: Sequence[Record]) -> None:
    from ossia.evals import report

    if options.plot:
        _draw(options, [(header, records)])
    if options.json:
        print(json.dumps(report.as_json(header, records), indent=2))
        return
    print(report.table(records))
    for text in (report.groups_table(records), report.not_read(records)):
        if text:
            print(f"\n{text}")
    for why, count in header.left_out.items():
        print(f"\n{count} questions were left out: {why}.")
    if options.failures:
        print(f"\n{report.failures(records, options.failures)}")


def _show_files(options: Options) -> None:
    from ossia.evals import report
    from ossia.evals.results import read_results

    runs = [read_results(path) for path in options.results]
    if options.plot:
        _draw(options, runs)
    if options.json:
        print(json.dumps([report.as_json(*one) for one in runs], indent=2))
        return
    for path, (header, records) in zip(options.results, runs, strict=True):
        print(f"{path}: {header.suite}, {header.model}\n")
        print(f"{report.table(records)}\n")
        if options.failures:
            print(f"{report.failures(records, options.failures)}\n")
    for path, (_, records) in list(zip(options.results, runs, strict=True))[1:]:
        names = (str(options.results[0]), str(path))
        print(report.compared(names, runs[0][1], records))


def _draw(options: Options, runs: Sequence[tuple[Header, Sequence[Record]]]) -> None:
    from ossia.evals.card import SCORES
    from ossia.evals.plot import Line, draw

    assert options.plot is not None
    first = runs[0][0]
    row = options.card or (first.suite if first.suite in SCORES else "")
    names = [header.model for header, _ in runs]
    if len(set(names)) < len(names):
        names = [path.stem for path in options.results]
    lines = [Line.of(name, records) for name, (_, records) in zip(names, runs, strict=True)]
    draw(row or first.suite, lines, options.plot, row)
    print(f"the plot is in {options.plot}", file=sys.stderr)


def _print_tasks(options: Options, trials: Sequence[Trial], records: Sequence[Record]) -> None:
    report = _task_report(trials, records)
    cut = sum(record.reason == "length" for record in records)
    if options.json:
        _print_json(report, cut)
        return
    print(report)
    if cut:
        limit = f"{options.sampling.max_tokens} tokens (--max-tokens)"
        print(f"\n{cut} of {len(records)} answers were cut after {limit}.")
    if options.failures:
        print(f"\n{report.failures(options.failures)}")


def _task_report(trials: Sequence[Trial], records: Sequence[Record]) -> Report:
    from ossia.tasks.evals import Case, Report, judge
    from ossia.tasks.problem import Call

    results = []
    for trial, record in zip(trials, records, strict=True):
        problem = trial.question.problem
        assert problem is not None
        case = Case(problem, trial.effort, trial.question.conversation(trial.effort))
        calls = [Call(**call) for call in record.calls]
        results.append(judge(case, record.final, calls, record.tokens))
    return Report(tuple(results))


def _print_json(report: Report, cut: int) -> None:
    rows = []
    for task in (*report.tasks, None):
        for effort in report.efforts:
            share = report.accuracy(task, effort)
            row = {
                "task": task or "all",
                "effort": effort,
                "right": share.right,
                "asked": share.total,
                "wilson_95": share.wilson(),
                "mean_tokens": report.tokens(effort, task),
            }
            rows.append(row)
    uses = {effort: report.tool_use(effort) for effort in report.efforts}
    calls = {effort: {"right": share.right, "asked": share.total} for effort, share in uses.items()}
    print(json.dumps({"accuracy": rows, "tool_use": calls, "cut": cut}, indent=2))


COMMAND = Command(Options, run, EPILOG)
