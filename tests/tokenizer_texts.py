"""What the tests of the tokenizer share: ordinary and hostile texts, and an oracle without added
tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from amounts import examples
from hypothesis import settings
from hypothesis import strategies as st

from ossia.tokenizer import HARMONY_SPECIALS

TEXTS = [
    "The quick brown fox doesn't jump over 1234 lazy dogs, and they'll say: \"it's 3.14\"!\n\n" * 3,
    "def add(a, b):\n    return a + b  # sums\n\n\nclass Thing:\n\tpass\r\n" * 3,
    "Ελληνικά, русский, 中文字符, 日本語テキスト, العربية, हिन्दी, ไทย, 한국어. naïve café\n" * 3,
    "aaa aaaa aaaaa banana bananas abababab ..... ---- ==== ////\n" * 3,
    "the thing there then other another mother brother weather whether analysis final\n" * 5,
]
HOSTILE = [
    *(
        "",
        " ",
        "\n",
        "\r\n\r\n \n",
        "    \t\t x",
        " " * 700,
        " " * 700 + "x",
        "\n" * 300,
        "\u3000\xa0a",
    ),
    *("0123456789" * 9, "१२३٤٥٦", "½²³", "aA" * 50, "HELLOworldFoo", "x" * 3000),
    *(
        "I'LL I'll DON'T 'S '\u017f x'\u017ft",
        "ﬀﬁ ǅ ß İ ŉ",
        "\U0001d518\U0001d52b \U0010ffff\ue000\ufffe",
    ),
    *("👩\u200d👩\u200d👧\u200d👦🏳\ufe0f\u200d🌈🇫🇷", "e\u0301" * 30 + "\u0301" * 40, "ᚠᛇᚻ᛫ཀ𒀀𓀀ꙮ"),
    *(
        "\x00\x01\x1c\x7f",
        "\u200b\u200d\ufeff\u2028\u2029\x85",
        "a" * 257 + "b" * 255,
        "/\r\n//\n.\n/",
    ),
    *(
        "".join(HARMONY_SPECIALS),
        "<|start|",
        "<|reserved_200000|><|endofprompt|>",
        "ababababababa aaaaaaaa",
    ),
]
PIECES = [
    *(
        "'s",
        "'LL",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "1",
        "42",
        "é",
        "e\u0301",
        "中",
        "🏳\ufe0f\u200d🌈",
    ),
    *("<|end|>", "<|", "a", "A"),
]
ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=40).map(
        "".join
    ),
    st.builds(lambda run, n: run * n, st.sampled_from(PIECES), st.integers(1, 90)),
)
fast = settings(max_examples=examples(250), deadline=None, derandomize=True)


def without_specials(path: Path) -> tokenizers.Tokenizer:
    """The library's tokenizer for the file, blind to added tokens: the oracle of the ordinary
    encode.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    data["added_tokens"] = []
    return tokenizers.Tokenizer.from_str(json.dumps(data))
