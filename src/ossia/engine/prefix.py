"""The prefix cache: pages of earlier requests, found again by the tokens that are in them. Plain
Python, no tensors.

The content of a slot depends on the tokens up to its position and on nothing else (the engine
computes the same bits in every batch and chunking), so a full page can serve every request that
begins with the same tokens. Pages of full attention form a tree, one node for every PAGE tokens,
found by the tokens themselves: no hash can confuse them. To continue at a node, a request also
needs, for the layers with a window, the pages that the next token sees; a node that holds these has
a snapshot. Full pages never change, so a snapshot costs references and no copies:

    tokens       0-15 --- 16-31 --- 32-47 --- 48-63 --- 64-79     (a window of 24)
    full pages    7         3         4         9         12
    snapshots                        [16-47]             [48-79]  a hit is possible at 48 and at 80

The least recently used snapshot is dropped first, and among the snapshots of one sequence the
longest, so that pages come free at its end. Every leaf has a snapshot: pages that no hit can reach
are not kept.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ossia.config import PAGE
from ossia.engine.pages import PageRun, PageTables, first_seen


@dataclass(eq=False, slots=True)
class Node:
    """PAGE tokens after those of `parent`, as int64; a root has none. `page`: None if no layer has
    full attention.
    """

    parent: Node | None
    tokens: bytes = b""
    page: int | None = None
    children: dict[bytes, Node] = field(default_factory=dict)
    snapshot: dict[int | None, PageRun] | None = None  # by window
    salt: str = ""  # of a root


class PrefixCache:
    """Holds pages that cost at most `budget`; None: as many as the pools can spare.

    `page_costs`: the cost of a page of each kind of layer (by window), in the unit of the budget,
    such as bytes; by default 1.
    """

    def __init__(
        self,
        tables: PageTables,
        budget: int | None = None,
        page_costs: Mapping[int | None, int] | None = None,
    ) -> None:
        self.tables = tables
        self.budget = budget
        self.hits = 0  # requests that started from pages of the cache
        self.tokens_reused = 0  # their tokens that were not computed again
        self._costs = page_costs or dict.fromkeys(tables.pools, 1)
        self._roots: dict[str, Node] = {}
        # Nodes that have one, least recently used first.
        self._snapshots: OrderedDict[Node, None] = OrderedDict()
        self._latest: Node | None = None  # the end of the sequence that was used last

    @property
    def cost(self) -> int:
        """The cost of all pages that the cache holds, in the unit of the budget."""
        total = 0
        for window, pool in self.tables.pools.items():
            total += pool.kept * self._costs[window]
        return total

    def __len__(self) -> int:
        """The number of snapshots."""
        return len(self._snapshots)

    def adopt(self, owner: int, salt: str, tokens: Sequence[int]) -> tuple[int, int]:
        """Gives `owner`, which has no pages, those of the longest prefix of `tokens` that has a
        snapshot and leaves at least one token to compute.

        Returns the length of that prefix in tokens, 0 if there is none, and the length of the
        longest prefix in the tree: if it is longer, a snapshot there would have been of use. Call
        `count_hit` if the pages are used.
        """
        best = None
        length = 0
        known = 0
        for node in self._walk(salt, tokens, len(tokens) - 1):
            known += PAGE
            if node.snapshot is not None:
                best = node
                length = known
        if best is None:
            return 0, known
        assert best.snapshot is not None
        runs = dict(best.snapshot)
        if None in self.tables.pools:
            nodes = reversed(list(_path_to(best)))
            pages = [node.page for node in nodes if node.page is not None]
            runs[None] = PageRun(array("i", pages))
        self.tables.adopt(owner, runs)
        self._touch(best)
        return length, known

    def count_hit(self, tokens: int) -> None:
        self.hits += 1
        self.tokens_reused += tokens

    def insert(self, owner: int, salt: str, tokens: Sequence[int]) -> None:
        """Keep the pages of `owner` for `tokens`, whole pages that it has computed, with a snapshot
        at their end.

        It must still have the pages that a token after them sees. Then the cache shrinks until it
        is within its budget.
        """
        assert len(tokens) % PAGE == 0
        if not tokens:
            return
        runs = self.tables.needed(owner, len(tokens))
        node = self._roots.setdefault(salt, Node(None, salt=salt))
        full = runs.get(None)
        for begin in range(0, len(tokens), PAGE):
            page_tokens = _page_at(tokens, begin)
            page = None if full is None else full.pages[begin // PAGE]
            node = self._child(node, page_tokens, page)
        if node.snapshot is None:
            node.snapshot = {window: run for window, run in runs.items() if window is not None}
            for window, run in node.snapshot.items():
                self.tables.pools[window].keep(run.pages)
        self._snapshots[node] = None
        self._touch(node)
        while self.budget is not None and self.cost > self.budget:
            self._forget(next(iter(self._snapshots)))

    def make_free(self, window: int | None, pages: int) -> None:
        """Drop snapshots until so many pages of this kind are free; as many must be `available`."""
        pool = self.tables.pools[window]
        assert pool.available >= pages
        while pool.free < pages:
            useful = (node for node in self._snapshots if self._has_idle(node, window))
            self._forget(next(useful, None) or next(iter(self._snapshots)))

    def shrink(self, share: float) -> None:
        """Drop snapshots until this share of the pages of each kind is held, or only the sequence
        that was used last.
        """
        pools = self.tables.pools.values()
        latest = set() if self._latest is None else set(_path_to(self._latest))
        for node in list(self._snapshots):
            if all(pool.kept <= pool.total * share for pool in pools):
                return
            if node not in latest:
                self._forget(node)

    def clear(self) -> None:
        while self._snapshots:
            self._forget(next(iter(self._snapshots)))
        self._latest = None

    def check(self) -> dict[int | None, Counter[int]]:
        """Asserts that the tree is sound; returns how often it holds each page, by window, for
        `PageTables.check`.
        """
        held: dict[int | None, Counter[int]] = {window: Counter() for window in self.tables.pools}
        for root in self._roots.values():
            assert root.parent is None and root.snapshot is None
            assert root.children, "a root that leads nowhere"
        found = set()
        for node in self._nodes():
            _check_node(node)
            if node.page is not None:
                held[None][node.page] += 1
            if node.snapshot is not None:
                found.add(node)
                for window, run in node.snapshot.items():
                    held[window].update(run.pages)
        assert found == set(self._snapshots), "snapshots and their order of use differ"
        assert self.budget is None or self.cost <= self.budget
        return held

    def _nodes(self) -> Iterator[Node]:
        """All nodes, roots included."""
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            stack += node.children.values()
            yield node

    def _walk(self, salt: str, tokens: Sequence[int], limit: int) -> Iterator[Node]:
        """The nodes of the first whole pages of `tokens`, as far as they are in the tree and end at
        or before `limit`.
        """
        node = self._roots.get(salt)
        for begin in range(0, limit - PAGE + 1, PAGE):
            if node is None:
                return
            node = node.children.get(_page_at(tokens, begin))
            if node is not None:
                yield node

    def _child(self, node: Node, tokens: bytes, page: int | None) -> Node:
        """The child of `node` with these tokens; if there is none, a new one with this page."""
        child = node.children.get(tokens)
        if child is not None:
            return child
        child = Node(node, tokens, page)
        node.children[tokens] = child
        if page is not None:
            self.tables.pools[None].keep([page])
        return child

    def _touch(self, node: Node) -> None:
        """The node has just been used, and the nodes on the path to it just after, so that they
        are dropped last.
        """
        self._latest = node
        for one in _path_to(node):
            if one.snapshot is not None:
                self._snapshots.move_to_end(one)

    def _has_idle(self, node: Node, window: int | None) -> bool:
        """Whether dropping this snapshot brings a page of this kind closer to being free."""
        pool = self.tables.pools[window]
        if window is None:
            return not node.children and node.page is not None and pool.is_idle(node.page)
        if node.snapshot is None:
            return False
        return any(pool.is_idle(page) for page in node.snapshot[window].pages)

    def _forget(self, node: Node) -> None:
        """Drop the snapshot, and the pages that no longer lead to one."""
        assert node.snapshot is not None
        for window, run in node.snapshot.items():
            self.tables.pools[window].drop(run.pages)
        node.snapshot = None
        del self._snapshots[node]
        one = node
        while one.parent is not None and not one.children and one.snapshot is None:
            if one.page is not None:
                self.tables.pools[None].drop([one.page])
            del one.parent.children[one.tokens]
            one = one.parent
        if one.parent is None and not one.children:
            del self._roots[one.salt]


def _check_node(node: Node) -> None:
    """Asserts that a node agrees with its children and its snapshot."""
    assert node.children or node.snapshot is not None, "a leaf without a snapshot"
    for tokens, child in node.children.items():
        assert child.parent is node
        assert child.tokens == tokens
        assert len(tokens) == 8 * PAGE
    if node.snapshot is None:
        return
    depth = sum(1 for _ in _path_to(node))
    for window, run in node.snapshot.items():
        assert run.first_page == first_seen(depth * PAGE, window) // PAGE
        assert run.first_page + len(run.pages) == depth


def _page_at(tokens: Sequence[int], begin: int) -> bytes:
    """One object in place of seventeen."""
    return array("q", tokens[begin : begin + PAGE]).tobytes()


def _path_to(node: Node) -> Iterator[Node]:
    """The node, then its ancestors, without the root."""
    while node.parent is not None:
        yield node
        node = node.parent
