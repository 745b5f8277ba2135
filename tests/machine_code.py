"""The loops of a compiled library, read from its disassembly: which vector instructions they have
and which of these go through the stack.

Knows objdump's output for x86-64 and for AArch64. Knows nothing of what the kernels compute.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Architecture:
    """How one architecture writes what is looked for; a pattern is matched against `name
    operands`.
    """

    vector: re.Pattern[str]  # an instruction on vector registers that hold more than one number
    stack: re.Pattern[str]  # a memory operand in the stack frame
    framed: re.Pattern[str]  # the function has a frame pointer ...
    frame: re.Pattern[str]  # ... and then this is such an operand too
    store: re.Pattern[str]
    jump: re.Pattern[str]
    final: re.Pattern[str]  # nothing follows: an unconditional jump, a return, a trap


X86 = Architecture(
    vector=re.compile(r"(?!\w*(?:ss|sd) )(?!v?mov[dq] )\S+ .*%[xyz]mm"),
    stack=re.compile(r"\(%rsp[,)]"),
    framed=re.compile(r"mov +%rsp,%rbp"),
    frame=re.compile(r"\(%rbp[,)]"),
    store=re.compile(r".*\)$|.*\)\{%k\d\}$"),
    jump=re.compile(r"j\w+ +([0-9a-f]+)\b"),
    final=re.compile(r"(notrack )?jmp|ret|ud2|hlt"),
)
AARCH64 = Architecture(
    vector=re.compile(r"\S+ .*\b(?:q\d|v\d+\.\d+[bhsd])"),
    stack=re.compile(r"\[sp\b"),
    framed=re.compile(r"mov x29, sp"),
    frame=re.compile(r"\[x29\b"),
    store=re.compile(r"st"),
    jump=re.compile(r"(?:b|b\.\w+|cbn?z .*|tbn?z .*) ?\b([0-9a-f]+)(?: <|$)"),
    final=re.compile(r"(b|br|ret|udf)\b(?!\.)"),
)


@dataclass(frozen=True)
class Instruction:
    address: int
    text: str  # "name operands"


@dataclass(frozen=True)
class Loop:
    """An innermost loop: no other is inside. `function`: the symbol whose code it is, without
    arguments' names.
    """

    function: str
    instructions: tuple[Instruction, ...]
    architecture: Architecture
    framed: bool

    def count(self, pattern: str) -> int:
        """How many instructions have such a name."""
        return sum(bool(re.match(pattern, one.text)) for one in self.instructions)

    @cached_property
    def vectors(self) -> int:
        return sum(bool(self.architecture.vector.match(one.text)) for one in self.instructions)

    @cached_property
    def stack_stores(self) -> int:
        return sum(bool(self.architecture.store.match(text)) for text in self._on_stack)

    @cached_property
    def stack_loads(self) -> int:
        return len(self._on_stack) - self.stack_stores

    @cached_property
    def _on_stack(self) -> list[str]:
        arch = self.architecture
        vectors = [one.text for one in self.instructions if arch.vector.match(one.text)]
        return [
            text
            for text in vectors
            if arch.stack.search(text) or (self.framed and arch.frame.search(text))
        ]


LABEL = re.compile(r"[0-9a-f]+ <(.*)>:$")
# without the coding of an instruction that has two
LINE = re.compile(r" *([0-9a-f]+):\t(?:\{\w+\} )?(.*)$")


def functions(binary: Path, objdump: str = "objdump") -> Iterator[tuple[str, list[Instruction]]]:
    """(demangled name, instructions) of every function."""
    command = [objdump, "-d", "-C", "-w", "--no-show-raw-insn", str(binary)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    name, code = "", list[Instruction]()
    for line in text.splitlines():
        if found := LINE.match(line):
            code.append(Instruction(int(found[1], 16), " ".join(found[2].split())))
        elif found := LABEL.match(line):
            if code:
                yield name, code
            name, code = found[1], []
    if code:
        yield name, code


def innermost_loops(
    name: str, code: list[Instruction], architecture: Architecture = X86
) -> list[Loop]:
    """The innermost loops of one function."""
    blocks = _basic_blocks(code, architecture)
    following = _successors(blocks, architecture)
    loops = _natural_loops(following)
    framed = any(architecture.framed.match(one.text) for one in code)
    inner = [
        body
        for head, body in loops.items()
        if not any(other in body for other in loops if other != head)
    ]
    return [
        Loop(name, tuple(one for b in sorted(body) for one in blocks[b]), architecture, framed)
        for body in inner
    ]


def _target(one: Instruction, architecture: Architecture) -> int | None:
    found = architecture.jump.match(one.text)
    return int(found[1], 16) if found else None


def _basic_blocks(code: list[Instruction], architecture: Architecture) -> list[list[Instruction]]:
    targets = {_target(one, architecture) for one in code}
    blocks: list[list[Instruction]] = []
    begins = True
    for one in code:
        if begins or one.address in targets:
            blocks.append([])
        blocks[-1].append(one)
        begins = _target(one, architecture) is not None or bool(architecture.final.match(one.text))
    return blocks


def _successors(blocks: list[list[Instruction]], architecture: Architecture) -> list[list[int]]:
    numbers = {block[0].address: n for n, block in enumerate(blocks)}
    following: list[list[int]] = []
    for n, block in enumerate(blocks):
        last = block[-1]
        after = [numbers.get(_target(last, architecture) or -1, -1)]
        if not architecture.final.match(last.text):
            after.append(n + 1)
        following.append([b for b in after if 0 <= b < len(blocks)])
    return following


def _natural_loops(following: list[list[int]]) -> dict[int, set[int]]:
    """Head -> blocks of every loop: what reaches the head again by an edge back to it, where a walk
    from the function's beginning closes a circle. Blocks that only a table of jumps leads to are
    walked from too.
    """
    before: list[list[int]] = [[] for _ in following]
    for block, after in enumerate(following):
        for other in after:
            before[other].append(block)
    loops: dict[int, set[int]] = {}
    for tail, head in _edges_back(following):
        body, rest = loops.setdefault(head, {head}), [tail]
        while rest:
            block = rest.pop()
            if block not in body:
                body.add(block)
                rest += before[block]
    return loops


def _edges_back(following: list[list[int]]) -> list[tuple[int, int]]:
    state = [0] * len(following)  # 1: on the path that is walked, 2: done
    found: list[tuple[int, int]] = []
    for root in range(len(following)):
        if state[root]:
            continue
        state[root] = 1
        path = [(root, iter(following[root]))]
        while path:
            block, others = path[-1]
            other = next(others, None)
            if other is None:
                state[block] = 2
                path.pop()
            elif state[other] == 1:
                found.append((block, other))
            elif state[other] == 0:
                state[other] = 1
                path.append((other, iter(following[other])))
    return found
