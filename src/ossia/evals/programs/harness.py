"""Runs inside the sandbox: calls a function of somebody's code, and says what came of it.

    stdin   {"code": ..., "entry": ..., "inputs": [[argument, ...], ...], "word": ...}
    stdout  what was returned for each input, as JSON behind a word, so that nothing which
            the code prints is taken for it; code that looks for the word in this process finds it

Stands alone: it is sent as text, and imports nothing of the package.
"""

from __future__ import annotations

import copy
import json
import os
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
        return ["dict", sorted(pairs, key=json.dumps)]
    return ["other", type(value).__name__]


def found(names: dict[str, Any], entry: str) -> Any:
    """A function, or a method of the class that such tasks are written in."""
    if entry in names:
        return names[entry]
    solution = names.get("Solution")
    return getattr(solution(), entry) if solution else None


def main() -> None:
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(20000)
    task = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    names: dict[str, Any] = {"__name__": "solution"}
    results: list[Any] = []
    function = None
    try:
        exec(compile(task["code"], "solution.py", "exec"), names)
        function = found(names, task["entry"]) if task["entry"] else None
    except BaseException as error:
        results = [["raised", type(error).__name__]]
    else:
        if task["entry"] and function is None:
            results = [["missing", task["entry"]]]
        elif not task["entry"]:
            results = [["returned", None]]
    for arguments in task["inputs"]:
        if function is None:
            break
        try:
            returned = function(*copy.deepcopy(arguments))
            results.append(["returned", plain(returned)])
        except BaseException as error:
            results.append(["raised", type(error).__name__])
    out.write("\n" + task["word"] + json.dumps(results) + "\n")
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
