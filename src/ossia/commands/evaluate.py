"""`ossia eval`: questions of a suite, or problems of ossia's own tasks, answered by a model in this
process or behind a URL, and graded.

What there is to ask is for `ossia.evals` and `ossia.tasks` to say; how many conversations are
answered at once, for `commands/respond.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ossia.commands.evaluated import Shown
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
    from ossia.evals.suites import Graders, Suite
    from ossia.tasks.safety.specs import Policy

EPILOG = """\
examples:
  ossia eval nano                                          nano's tasks at every effort
  ossia eval nano --task arithmetic --effort high --samples 500 --failures 10
  ossia eval gpt-oss-20b --suite gpqa --file gpqa_diamond.csv --dry-run
  ossia eval --url http://127.0.0.1:8000/v1 --suite aime --file aime25.jsonl
  ossia eval nano --suite safety                           refusals, in a fictional domain
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
    "aime",
    "gpqa",
    "mmlu",
    "hle",
    "qa",
    "healthbench",
    "humaneval",
    "mbpp",
    "livecodebench",
    "safety",
]


@dataclass(frozen=True)
class Judging:
    """Who grades what no program can."""

    TITLE: ClassVar[str] = "a judge"
    ABOUT: ClassVar[str | None] = (
        "For healthbench, files of safety, and words of hle. Its key is read from OSSIA_JUDGE_KEY."
    )

    judge: str | None = option(None, "an OpenAI-compatible server to ask for verdicts", "URL")
    judge_model: str = option("gpt-oss-120b", "which of its models", "NAME")
    judge_seconds: PositiveNumber = option(
        600.0, "that a verdict may take: judges reason, too", "SECONDS"
    )


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
class Asking(Sampling):
    """Answers are drawn the same every time, so that a run can go on."""

    seed: int = option(0, "the same seed draws the same tokens", "N")
    max_tokens: int | None = option(
        None,
        "sample at most N tokens",
        "N",
        shown=f"{TASK_TOKENS} for problems of our own; of files, until the context is full",
    )


@dataclass(frozen=True)
class Options:
    """What `ossia eval` takes."""

    model: str = model()
    suite: SuiteName | None = option(
        None, "ask a public suite, from --file; safety has questions of its own, too"
    )
    file: tuple[Path, ...] = option(
        (), "CSV, JSON, JSON lines or Parquet, gzipped or not; repeatable", "FILE"
    )
    policy: Path | None = option(
        None, "of --suite safety: rules that the rows of --file name categories of", "FILE"
    )
    with_policy: bool = option(
        False, "of --suite safety without --file: put its policy into the developer message"
    )
    jailbreaks: bool = option(False, "of --suite safety: ask the rows of --file in disguises too")
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
    sampling: Asking = Asking()

    @property
    def is_own(self) -> bool:
        """Whether a suite is asked its own questions."""
        return self.suite == "safety" and not self.file


def run(options: Options) -> None:
    from ossia.evals.results import Results
    from ossia.evals.run import run as ask_all

    _check_words(options)
    shown = Shown(options.json, options.failures, options.plot, options.card)
    if options.results:
        shown.files(options.results)
        return
    if options.suite is None:
        options = _with_task_defaults(options, _tasks(options.task))
    if options.is_own:
        options = _with_task_tokens(options)
    suite, questions, left_out, graders = _questions(options)
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
        shown.tasks(trials, records, options.sampling.max_tokens)
        return
    print(f"answers are in {path}", file=sys.stderr)
    shown.suite(header, records, graders.judge.missing if graders.judge else {})


# ---- what is asked -------------------------------------------------------------------------------


def _check_words(options: Options) -> None:
    """Raises `RequestError` for options that contradict each other."""
    if options.suite and not (options.file or options.results or options.is_own):
        raise RequestError("a suite needs its questions: give --file", "file")
    if options.file and not options.suite:
        raise RequestError("say which suite the file is of, with --suite", "suite")
    if options.suite and options.task:
        raise RequestError("give either --suite or --task", "task")
    if (options.policy or options.jailbreaks) and (options.suite != "safety" or options.is_own):
        raise RequestError("--policy and --jailbreaks are for --suite safety --file", "suite")
    if options.with_policy and not options.is_own:
        raise RequestError("--with-policy is for --suite safety without --file", "with_policy")
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
    samples = options.samples or TASK_SAMPLES
    return _with_task_tokens(replace(options, task=tuple(tasks), samples=samples))


def _with_task_tokens(options: Options) -> Options:
    if options.sampling.max_tokens is not None:
        return options
    return replace(options, sampling=replace(options.sampling, max_tokens=TASK_TOKENS))


def _questions(
    options: Options,
) -> tuple[Suite | None, list[Question], dict[str, int], Graders]:
    """What is asked, how many questions were left out, by reason, and who grades."""
    from ossia.evals.questions import of_problem
    from ossia.evals.safety import in_disguise
    from ossia.evals.suites import SUITES, Graders, read
    from ossia.tasks import problems

    if options.suite is None:
        questions = []
        for task in options.task:
            drawn = problems(task, options.samples or TASK_SAMPLES, options.problem_seed)
            questions += [of_problem(problem, number) for number, problem in enumerate(drawn)]
        return None, questions, {}, Graders()
    suite = SUITES[options.suite]
    if options.is_own:
        return suite, *_own_questions(options), Graders()
    graders = _graders(options, suite)
    questions, left_out = read(suite, options.file, graders)
    questions = questions[: options.samples]
    if options.jailbreaks:
        questions = in_disguise(questions, options.problem_seed)
    return suite, questions, left_out, graders


def _own_questions(options: Options) -> tuple[list[Question], dict[str, int]]:
    """A server is not given the tools of a problem."""
    from ossia.evals.safety import EACH, own_questions

    each = options.samples or EACH
    questions = own_questions(each, options.problem_seed, options.with_policy)
    if options.server.url is None:
        return questions, {}
    kept = [question for question in questions if not question.offered]
    left_out = len(questions) - len(kept)
    return kept, {"it needs a tool, which a server is not given": left_out} if left_out else {}


def _graders(options: Options, suite: Suite) -> Graders:
    """Raises `SandboxError` if code cannot be confined, `JudgeError` for a judge that is none."""
    from ossia.commands.judging import CriterionJudge, Nobody
    from ossia.evals.programs.functions import Sandboxed
    from ossia.evals.suites import Graders

    policy = _policy(options)
    if options.dry_run:
        return Graders(Nobody(), Nobody(), policy)
    if "runner" in suite.needs:
        return Graders(runner=Sandboxed())
    judging = options.judging
    if judging.judge is not None:
        out = _out(options)
        verdicts = out.with_name(f"{out.name}.verdicts")
        judge = CriterionJudge(judging.judge, judging.judge_model, verdicts, judging.judge_seconds)
        return Graders(judge, policy=policy)
    if "judge" in suite.needs:
        raise RequestError(
            f"{suite.name} is graded by a judge: name a server with --judge, such as one of "
            "gpt-oss-120b",
            "judge",
        )
    return Graders()


def _policy(options: Options) -> Policy | None:
    from ossia.tasks.safety.spec_files import read_policy

    return None if options.policy is None else read_policy(options.policy)


def _out(options: Options) -> Path:
    """Where a suite's answers are kept."""
    if options.out is not None:
        return options.out
    name = options.server.model_name or "server" if options.server.url else options.model
    first = options.file[0].stem if options.file else str(options.suite)
    return Path(f"{first}.{name.replace('/', '-')}.jsonl")


def _trials(options: Options, suite: Suite | None, questions: Sequence[Question]) -> list[Trial]:
    from ossia.evals.questions import trials
    from ossia.harmony import Effort

    efforts = [effort for effort in Effort if not options.effort or effort in options.effort]
    repeats = options.repeats or (suite.repeats if suite else 1)
    return list(trials(questions, efforts, repeats, options.sampling.seed))


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

    settings: dict[str, Any] = {**_sampling(options), "seed": options.sampling.seed}
    if options.server.url is not None:
        settings["api"] = options.server.api
    else:
        computing = options.computing
        for one in ("dtype", "dense", "activations", "kv", "experts", "adapter"):
            settings[one] = getattr(computing, one)
        settings["weights"] = _weights(options.model)
    if options.judging.judge is not None:
        settings["judge"] = options.judging.judge_model
    if options.suite is None or options.is_own or options.jailbreaks:
        settings["problem_seed"] = options.problem_seed
    if options.is_own:
        settings["with_policy"] = options.with_policy
    policy = _policy(options)
    if policy is not None:
        settings["policy"] = policy.digest
    return Header(options.suite or "tasks", name, settings, left_out)


def _weights(model: str) -> str | None:
    """Tells them from others that a folder of this name has had."""
    from ossia.hub import find
    from ossia.train.weights.export import fingerprint

    return fingerprint(find(model))


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
    suite = options.suite or "tasks"
    print(costs(suite, options.model, trials, records, options.speed, _most_tokens(options)))
    if suite == "safety" and not options.is_own:
        print(f"and two verdicts of the judge on each answer, {2 * len(trials):,}")


def _most_tokens(options: Options) -> int | None:
    """That an answer may have; None if that is not known without a download."""
    from ossia.checkpoint import open_checkpoint
    from ossia.hub import find

    most = options.sampling.max_tokens
    if options.suite is None and most is None:
        most = TASK_TOKENS
    is_here = options.model == "nano" or Path(options.model, "config.json").is_file()
    if options.server.url is None and is_here:
        context = open_checkpoint(find(options.model)).config.max_context_length
        most = context if most is None else min(most, context)
    return most


COMMAND = Command(Options, run, EPILOG)
