"""A run: ask what has not been answered, mark what comes, keep it.

    with Results(header, path) as results:
        run(trials, results, answer)

`answer` is given trials and yields (index, answer) as answers are finished: an engine in this
process, or a server. Marks are made beside it, because judges and programs take their time. Knows
neither models nor suites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from ossia.evals.questions import Answered, Trial
from ossia.evals.results import Record, Results

Answer = Callable[[Sequence[Trial]], Iterator[tuple[int, Answered]]]
GRADERS = 4  # at once: programs and judges
MOST_WAITING = 64  # answers without a mark, before the next one is waited for


def run(
    trials: Sequence[Trial],
    results: Results,
    answer: Answer,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """`progress` is told (answers with a mark, trials in all)."""
    missing = [trial for trial in trials if not results.has(trial)]
    done = len(trials) - len(missing)
    progress(done, len(trials))
    waiting: set[Future[Record]] = set()
    with ThreadPoolExecutor(GRADERS, "ossia-grade") as graders:
        try:
            for index, answered in answer(missing):
                waiting.add(graders.submit(_marked, missing[index], answered))
                is_full = len(waiting) >= MOST_WAITING
                done += _keep(waiting, results, None if is_full else 0.0)
                progress(done, len(trials))
            while waiting:
                done += _keep(waiting, results, None)
                progress(done, len(trials))
        except BaseException:
            _keep(waiting, results, 0.0)
            graders.shutdown(wait=False, cancel_futures=True)
            raise
    results.finish(trials)


def _marked(trial: Trial, answered: Answered) -> Record:
    return Record.of(trial, answered, trial.question.mark(answered))


def _keep(
    waiting: set[Future[Record]],
    results: Results,
    seconds: float | None,
) -> int:
    """Write down the records that are ready; how many there were. `seconds`: to wait for one."""
    ready, _ = wait(waiting, seconds, FIRST_COMPLETED)
    for future in ready:
        waiting.remove(future)
        results.add(future.result())
    return len(ready)
