"""How many pages the cache gets: for a number of tokens, or for a number of bytes. Plain Python.

Full-attention layers keep every token of every sequence. Layers with a window keep the tokens that
their sequences see, those that the batch in flight adds, and the prefix cache's snapshots, one for
every SNAPSHOT_EVERY tokens that the full layers hold.
"""

from __future__ import annotations

from ossia.config import ModelConfig, kv_page_bytes
from ossia.engine.pages import PageTables, pages_of
from ossia.engine.scheduler import SNAPSHOT_EVERY

TOKENS_EACH = 512  # that a sequence should have room for when many run


def page_bytes(config: ModelConfig, kind: str = "bf16") -> dict[int | None, int]:
    """Bytes of a page, in all layers with the same window together."""
    windows = [config.window(n) for n in range(config.num_hidden_layers)]
    page = config.num_key_value_heads * kv_page_bytes(config.head_dim, kind)
    return {window: windows.count(window) * page for window in set(windows)}


def make_tables(
    config: ModelConfig,
    tokens: int,
    max_running: int,
    max_batch_tokens: int,
    snapshots: bool = True,
) -> PageTables:
    """Pages for `tokens` of full attention, over all sequences, and those that layers with a window
    need for them.
    """
    return PageTables(_pages(config, tokens, max_running, max_batch_tokens, snapshots))


def tokens_within(
    config: ModelConfig,
    memory: int,
    kind: str,
    max_running: int,
    max_batch_tokens: int,
    snapshots: bool = True,
) -> int:
    """The most tokens whose pages take at most `memory` bytes; 0 if not even one does."""
    costs = page_bytes(config, kind)
    low = 0
    high = max_running * config.max_context_length
    while low < high:
        middle = (low + high + 1) // 2
        pages = _pages(config, middle, max_running, max_batch_tokens, snapshots)
        if sum(count * costs[window] for window, count in pages.items()) <= memory:
            low = middle
        else:
            high = middle - 1
    return low


def streams_within(
    config: ModelConfig, memory: int, kind: str, max_running: int, max_batch_tokens: int
) -> int:
    """How many sequences to run at once, at most `max_running`: each reserves pages, so little
    memory is enough for few only.
    """
    running = max_running
    while (
        running > 1
        and tokens_within(config, memory, kind, running, max_batch_tokens) < running * TOKENS_EACH
    ):
        running //= 2
    return running


def _pages(
    config: ModelConfig, tokens: int, max_running: int, max_batch_tokens: int, snapshots: bool
) -> dict[int | None, int]:
    # a sequence may leave one page half empty, and a window may begin within a page
    running = min(max_running, tokens)
    whole = pages_of(tokens) + 2 * running
    found: dict[int | None, int] = {}
    for window in page_bytes(config):
        found[window] = whole
        if window is not None:
            seen = running * (pages_of(window) + 2) + pages_of(min(tokens, max_batch_tokens))
            if snapshots:
                seen += tokens // SNAPSHOT_EVERY * pages_of(window)
            found[window] = min(whole, seen)
    return found
