"""Going on with sampled ids: nothing in them changes but what a new user message changes."""

from __future__ import annotations

import random
from typing import Any

from amounts import examples, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony import (
    Conversation,
    Message,
    Role,
    SystemContent,
    render_conversation,
    render_for_completion,
    render_message,
)
from ossia.harmony.verbatim import continued, spans
from ossia.tokenizer import Tokenizer

RESULT = Message("tool", "41", "functions.f", "commentary", "assistant")
ASKED = Conversation((Message("system", SystemContent()), Message("user", "how many?")))


def test_as_rendered_where_the_ids_are_as_rendered(
    small_tokenizer: Tokenizer, generator: Any
) -> None:
    """The oracle: a conversation of which nothing has been dropped yet, then a user or a tool."""
    dropped = 0
    for seed in seeds(400):
        messages = generator(random.Random(seed)).conversation(wild=False, most=12).messages
        for at, message in enumerate(messages):
            if message.role not in (Role.USER, Role.TOOL):
                continue
            before = Conversation(messages[:at])
            ids = render_conversation(before, small_tokenizer, drop_analysis=False)
            found = continued(ids, [message], small_tokenizer)
            after = Conversation(messages[: at + 1])
            whole = render_for_completion(after, small_tokenizer, drop_analysis=False)
            if message.role is Role.USER:
                wanted = render_for_completion(after, small_tokenizer)
                dropped += wanted != whole
            else:
                wanted = whole
            assert found == wanted, (seed, at)
    assert dropped >= examples(400) // 10


def test_an_answer_that_was_sampled_becomes_history(small_tokenizer: Tokenizer) -> None:
    """Its own spelling stays; its reasoning goes, and its stop token is that of a history."""
    spelled = [*small_tokenizer.encode("4"), *small_tokenizer.encode("2")]
    prompt = render_for_completion(ASKED, small_tokenizer)
    thought = small_tokenizer.encode_with_specials(
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>"
    )
    returned = small_tokenizer.special("<|return|>")
    ids = [*prompt, *thought, *spelled, returned]
    found = continued(ids, [Message("user", "sure?")], small_tokenizer)
    head = small_tokenizer.encode_with_specials("<|channel|>final<|message|>")
    end = small_tokenizer.special("<|end|>")
    kept = [*prompt, *head, *spelled, end]
    assert found[: len(kept)] == kept
    assert continued(ids, [RESULT], small_tokenizer)[: len(ids)] == ids, "a tool changes nothing"


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_whatever_was_sampled(small_tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Random ids, many of them special: a result goes after all of them; at a user's message ids
    are left out, and none is made up.
    """
    specials = st.sampled_from(sorted(small_tokenizer.specials.values()))
    ids = st.one_of(specials, st.integers(0, small_tokenizer.vocab_size + 3))
    prompt = render_for_completion(ASKED, small_tokenizer)
    sampled = data.draw(st.lists(ids, max_size=40))
    known = [*prompt, *sampled]
    result = render_message(RESULT, small_tokenizer)
    invited = [small_tokenizer.special("<|start|>"), *small_tokenizer.encode("assistant")]
    assert continued(known, [RESULT], small_tokenizer) == [*known, *result, *invited]
    user = Message("user", "why?")
    found = continued(known, [user], small_tokenizer)
    tail = [*render_message(user, small_tokenizer), *invited]
    assert found[-len(tail) :] == tail
    left = iter(known)
    returned = small_tokenizer.special("<|return|>")
    end = small_tokenizer.special("<|end|>")
    for id in found[: -len(tail)]:
        assert any(id == one or (one == returned and id == end) for one in left)


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_spans_cover_the_ids_in_order(small_tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = st.integers(0, small_tokenizer.vocab_size + 3)
    specials = st.sampled_from(sorted(small_tokenizer.specials.values()))
    known = data.draw(st.lists(st.one_of(specials, ids), max_size=60))
    end = 0
    for span in spans(known, small_tokenizer):
        assert span.begin == end < span.end <= len(known)
        end = span.end
