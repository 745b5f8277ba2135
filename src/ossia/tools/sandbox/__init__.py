"""Running strangers' code: the best confinement that this machine has, proved when it is first
used.

    rung = choose()
    run(rung, Job((rung.python, "-c", "print(1)")), seconds=10.0)     -> Finished
    find().described                                                 for people
"""

from ossia.tools.sandbox.best import Found, choose, find, ladder
from ossia.tools.sandbox.limits import Job, Limits
from ossia.tools.sandbox.process import Confined
from ossia.tools.sandbox.run import Finished, run
from ossia.tools.sandbox.rung import Rung

__all__ = [
    "Confined",
    "Finished",
    "Found",
    "Job",
    "Limits",
    "Rung",
    "choose",
    "find",
    "ladder",
    "run",
]
