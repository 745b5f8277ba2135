"""Runs inside the sandbox: calls a function of somebody's code, and says what came of it; or runs
a file's own test, in which that function is only played.

    stdin   {"code": ..., "entry": ..., "inputs": [[argument, ...], ...], "word": ...}
    stdout  what was returned for each input, and what was left of its arguments where they were
            changed, as JSON behind a word, so that nothing which the code prints is taken for it;
            code that looks for the word in this process finds it, and still doesn't know what is
            right

    stdin   {"test": ..., "before": ..., "solution": ..., "entry": ...,
            "known": [[call, what came of it], ...], "word": ...}
    stdout  {"calls": ..., "waits": ..., "raised": ...} behind the word. Nothing of the answer's
            code is in this process. A call that is not known gives what the file's own solution
            gives, or without one something that passes for anything, so that the test goes on to
            its next call; then it is asked again (`waits`). Random numbers are the same each time

Stands alone: it is sent as text, and imports nothing of the package.
"""

from __future__ import annotations

import builtins
import copy
import json
import os
import random
import sys
from typing import Any

DEEPEST = 60


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON that keeps the difference between a list, a tuple and a set."""
    if depth > DEEPEST:
        return ["deep"]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return ["int", str(int(value))]
    if isinstance(value, float):
        return ["float", repr(float(value))]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, complex):
        return ["complex", repr(complex(value))]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [plain(one, depth + 1) for one in value]]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted((plain(one, depth + 1) for one in value), key=json.dumps)]
    if isinstance(value, dict):
        pairs = [[plain(key, depth + 1), plain(one, depth + 1)] for key, one in value.items()]
        return ["dict", pairs]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.hex()]
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return plain(value.tolist(), depth + 1)
    return ["other", type(value).__name__]


class Unknown:
    """What cannot be written down; like nothing else."""


def unplain(value: Any, frozen: bool = False) -> Any:
    """The value that `plain` wrote. `frozen`: it has to be one that a set can hold."""
    if not isinstance(value, list):
        return value
    kind = value[0]
    if kind in ("deep", "other"):
        return Unknown()
    inside = value[1]
    if kind == "dict":
        return {unplain(key, True): unplain(one) for key, one in inside}
    if kind in ("list", "tuple"):
        parts = [unplain(one, frozen) for one in inside]
        return parts if kind == "list" else tuple(parts)
    if kind == "set":
        members = [unplain(one, True) for one in inside]
        return frozenset(members) if frozen else set(members)
    if kind == "bytes":
        return bytes.fromhex(inside)
    return {"int": int, "float": float, "complex": complex}[kind](inside)


def is_whole(value: Any) -> bool:
    """Whether nothing in what `plain` wrote is unknown."""
    if not isinstance(value, list):
        return True
    if value[0] in ("deep", "other"):
        return False
    inside = value[1] if isinstance(value[1], list) else []
    if value[0] == "dict":
        inside = [part for pair in inside for part in pair]
    return all(map(is_whole, inside))


def found(names: dict[str, Any], entry: str) -> Any:
    """A function, or a method of the class that such tasks are written in."""
    if entry in names:
        return names[entry]
    solution = names.get("Solution")
    return getattr(solution(), entry) if solution else None


def results_of(task: dict[str, Any]) -> list[Any]:
    names: dict[str, Any] = {"__name__": "solution"}
    results: list[Any] = []
    function = None
    try:
        exec(compile(task["code"], "solution.py", "exec"), names)
        function = found(names, task["entry"]) if task["entry"] else None
    except BaseException as error:
        results = [["raised", type(error).__name__, None]]
    else:
        if task["entry"] and function is None:
            results = [["missing", task["entry"], None]]
        elif not task["entry"]:
            results = [["returned", None, None]]
    for given in task["inputs"]:
        if function is None:
            break
        arguments, named = unplain(given) if task["written"] else (copy.deepcopy(given), {})
        results.append(outcome(function, arguments, named))
    return results


def outcome(function: Any, arguments: list[Any], named: dict[str, Any]) -> list[Any]:
    """[how it ended, what it returned, its arguments afterwards: None if they are as before]."""
    before = plain([arguments, named])
    try:
        ended = ["returned", plain(function(*arguments, **named))]
    except BaseException as error:
        ended = ["raised", type(error).__name__]
    left = plain([arguments, named])
    return [*ended, None if left == before else left]


# ---- a test --------------------------------------------------------------------------------------


class Later:
    """Stands for a result that isn't known yet, and passes for anything."""

    def _itself(self, *_: Any, **__: Any) -> Later:
        return self

    def _yes(self, *_: Any) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        return iter([self])

    def __float__(self) -> float:
        return 0.0

    def __int__(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Later:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


_SUMS = "add radd sub rsub mul rmul truediv rtruediv floordiv mod pow neg abs round call getitem"
for _name in _SUMS.split():
    setattr(Later, f"__{_name}__", Later._itself)
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "contains", "bool"):
    setattr(Later, f"__{_name}__", Later._yes)


class Stop(BaseException):
    """A call cannot be made before another one has its result."""


class Played:
    """The function of the answer: its calls are written down, their results were made elsewhere."""

    def __init__(self, known: list[Any], own: Any) -> None:
        self.known = known
        self.own = own  # the file's own solution, or None
        self.calls: list[Any] = []
        self.waits = False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        call = plain([list(arguments), named])
        if not is_whole(call):
            self.waits |= not self.calls
            raise Stop
        place = len(self.calls)
        self.calls.append(call)
        if self.waits or place >= len(self.known) or self.known[place][0] != call:
            self.waits = True
            return self.own(*arguments, **named) if self.own else Later()
        ended, value, left = self.known[place][1]
        if left is not None:
            put_back(arguments, named, left)
        if ended == "returned":
            return unplain(value)
        kind = getattr(builtins, str(value), Exception)
        is_error = isinstance(kind, type) and issubclass(kind, Exception)
        raise (kind if is_error else Exception)(value)


def put_back(arguments: tuple[Any, ...], named: dict[str, Any], left: Any) -> None:
    """What a call left of its arguments, as `plain` writes it, into the test's own."""
    places, names = left[1]
    for value, after in zip(arguments, places[1], strict=False):
        change(value, after)
    for name, after in names[1]:
        change(named.get(name), after)


EMPTIED: dict[str, Any] = {"dict": dict, "set": set}  # and filled again


def change(value: Any, after: Any) -> None:
    """In place: only what a function could change so, and only into data."""
    kind = after[0] if isinstance(after, list) else ""
    if kind == "tuple" and isinstance(value, tuple):
        for one, part in zip(value, after[1], strict=False):
            change(one, part)
    if plain(value) == after:
        return
    if kind == "list" and isinstance(value, list):
        value[:] = unplain(after)
    elif isinstance(value, EMPTIED.get(kind, ())):
        made = unplain(after)
        value.clear()
        value.update(made)


def own_of(task: dict[str, Any]) -> Any:
    """In names of its own: what it calls itself is no call of the test's."""
    names: dict[str, Any] = {"__name__": "own"}
    try:
        exec(compile(task["solution"], "solution.py", "exec"), names)
    except BaseException:
        return None
    return names.get(task["entry"])


def checked(task: dict[str, Any]) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "test"}
    raised = ""
    random.seed(0)
    played = Played(task["known"], own_of(task))
    try:
        exec(compile(task["before"], "before.py", "exec"), names)
        names[task["entry"]] = played
        exec(compile(task["test"], "test.py", "exec"), names)
        if task["checks"]:
            names["check"](played)
    except BaseException as error:
        raised = type(error).__name__
    return {"calls": played.calls, "waits": played.waits, "raised": raised}


def main() -> None:
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(20000)
    task = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    results = checked(task) if "test" in task else results_of(task)
    out.write("\n" + task["word"] + json.dumps(results) + "\n")
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
