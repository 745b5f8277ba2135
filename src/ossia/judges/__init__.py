"""Verdicts of a language model on answers, for what no program can grade.

    judge = Judge(RUBRIC, Endpoint("http://localhost:8000/v1", "gpt-oss-20b"), good, bad)
    reward = judge.reward(asked, outcome)

Knows what a reward may see: the request, the final text and the calls. Reasoning never gets here,
because `Outcome` has none. What is judged is quoted as JSON, so that it is material and no
instruction; a judge that obeys it nevertheless is refused at the start. A verdict that does not
come, or cannot be read, is None and counted: neither right nor wrong.
"""

from ossia.judges.askers import Endpoint, InProcess, chat_choice
from ossia.judges.bench import TRIES, Asker, Bench
from ossia.judges.judge import Judge, Material, as_material
from ossia.judges.trials import OVERRIDES, try_judge
from ossia.judges.verdicts import Verdict, read_verdict

__all__ = [
    "OVERRIDES",
    "TRIES",
    "Asker",
    "Bench",
    "Endpoint",
    "InProcess",
    "Judge",
    "Material",
    "Verdict",
    "as_material",
    "chat_choice",
    "read_verdict",
    "try_judge",
]
