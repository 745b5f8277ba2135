"""What the model card of gpt-oss reports (arXiv 2508.10925, table 3 and figure 3), by suite, model
and effort. Numbers only.

The suite's prompts, answers' readers and samplers of the card are not public, so that a difference
of a point or two says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

ByEffort = tuple[float, float, float]  # low, medium, high
MODELS = ("gpt-oss-120b", "gpt-oss-20b")

# Percent, without tools.
SCORES: Mapping[str, Mapping[str, ByEffort]] = {
    "aime24": {
        "gpt-oss-120b": (56.3, 80.4, 95.8),
        "gpt-oss-20b": (42.1, 80.0, 92.1),
    },
    "aime25": {
        "gpt-oss-120b": (50.4, 80.0, 92.5),
        "gpt-oss-20b": (37.1, 72.1, 91.7),
    },
    "gpqa": {
        "gpt-oss-120b": (67.1, 73.1, 80.1),
        "gpt-oss-20b": (56.8, 66.0, 71.5),
    },
    "hle": {
        "gpt-oss-120b": (5.2, 8.6, 14.9),
        "gpt-oss-20b": (4.2, 7.0, 10.9),
    },
    "mmlu": {
        "gpt-oss-120b": (85.9, 88.0, 90.0),
        "gpt-oss-20b": (80.4, 84.0, 85.3),
    },
    "mmmlu": {
        "gpt-oss-120b": (74.1, 79.3, 81.3),
        "gpt-oss-20b": (67.0, 73.5, 75.7),
    },
    "healthbench": {
        "gpt-oss-120b": (53.0, 55.9, 57.6),
        "gpt-oss-20b": (40.4, 41.8, 42.5),
    },
}

# Tokens of an answer, read off figure 3, which is of runs with tools: approximate.
TOKENS: Mapping[str, Mapping[str, ByEffort]] = {
    "aime25": {
        "gpt-oss-120b": (1200, 4300, 13000),
        "gpt-oss-20b": (1100, 6000, 20000),
    },
    "gpqa": {
        "gpt-oss-120b": (1300, 3800, 17000),
        "gpt-oss-20b": (900, 7000, 30000),
    },
}
# Of suites of which the card shows no lengths: those of its sciences, halved.
OTHER_TOKENS: ByEffort = (500, 2500, 10000)


def tokens_of(suite: str, model: str = "gpt-oss-20b") -> ByEffort:
    """About how many tokens an answer has at each effort."""
    known = "aime25" if suite == "aime" else suite
    lengths = TOKENS.get(known)
    if lengths is None:
        return OTHER_TOKENS
    return lengths.get(model, lengths["gpt-oss-20b"])
