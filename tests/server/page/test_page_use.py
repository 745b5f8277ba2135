"""The page in headless Chromium: conversations that are kept, themes, phones, keys, scrolling, and
pictures of it.

    OSSIA_SCREENSHOTS=docs pytest tests/server/test_page_use.py -k pictures

writes the pictures that the documents show.
"""

# ruff: noqa: F401, F811  (fixtures are imported by their names)

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from pages import (
    ask,
    call,
    clipboard,
    done,
    expect,
    final,
    in_browser,
    opened,
    says,
    thought,
)

from ossia.server import Settings

pytestmark = [*in_browser, pytest.mark.slow]


def test_conversations_are_kept_renamed_and_deleted(says, opened):
    page = opened(says(thought("hm") + final("answer **one**"), final("answer two")))
    ask(page, "First")
    done(page)
    page.keyboard.press("Control+k")
    ask(page, "Second")
    done(page)
    names = page.locator("#chats .chat-name")
    expect(names).to_have_text(["Second", "First"])
    page.reload()
    expect(page.locator(".md")).to_have_text("answer two")
    names.nth(1).click()
    expect(page.locator(".md strong")).to_have_text("one")
    expect(page.locator("details.thought summary")).to_contain_text("Thought for")
    page.get_by_role("button", name="Rename First").click()
    page.get_by_label("Name of the conversation").fill("<b>Of one</b>")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("<b>Of one</b>")
    page.get_by_role("button", name="Delete <b>Of one</b>").click()
    expect(names).to_have_text(["Second"])
    expect(page.locator("#hello")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".md")).to_have_text("answer one")
    names.first.hover()  # the buttons of a conversation come with the mouse or the focus
    page.get_by_role("button", name="Delete Second").click()
    page.reload()
    expect(names).to_have_text(["<b>Of one</b>"])


def test_an_answer_goes_on_behind_another_conversation(says, opened):
    page = opened(says(final("word " * 100), final("short"), delay=0.005))
    ask(page, "Long")
    expect(page.locator(".md")).to_contain_text("word word")
    page.keyboard.press("Control+k")
    ask(page, "Short")
    expect(page.locator(".md")).to_have_text("short")
    page.locator("#chats .chat-name", has_text="Long").click()
    done(page)
    expect(page.locator(".md")).to_have_text(("word " * 100).strip())


def test_damaged_storage_does_no_harm(says, opened):
    page = opened(says(final("ok")))
    ask(page, "Hi")
    done(page)
    page.evaluate(
        """() => Object.keys(localStorage).filter(key => key.includes("chat."))
            .forEach(key => { localStorage[key] = "{"; })"""
    )
    page.reload()
    page.locator("#chats .chat-name").click()
    expect(page.get_by_text("This conversation cannot be read any more.")).to_be_visible()
    expect(page.locator("#chats .chat-name")).to_have_count(0)


def test_dark_mode_follows_the_system_until_it_is_switched(says, opened):
    page = opened(says(final("ok")), color_scheme="dark")
    background = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    assert dark != light
    page.get_by_role("button", name="Dark mode").click()
    expect(page.get_by_role("button", name="Dark mode")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate(background) == dark
    page.reload()
    assert page.evaluate(background) == dark
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Theme").select_option("system")
    assert page.evaluate(background) == light


CONTRAST = """selector => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = rgb => rgb.slice(0, 3).map(linear)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const shown = e => e.offsetParent && e.textContent.trim();
  return [...document.querySelectorAll(selector)].filter(shown).map(e => {
    const color = element => parts(getComputedStyle(element).backgroundColor);
    let under = e;
    while (color(under)[3] === 0) under = under.parentElement;
    const back = color(under);
    const [a, b] = [luminance(parts(getComputedStyle(e).color)), luminance(back)]
      .sort((x, y) => y - x);
    return [e.className + ": " + e.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(says, opened, scheme):
    page = opened(
        says(
            thought("hm") + call("calculator", expression="1/0"),
            final("[a](https://a.example) `b`\n> c\n\n```d\ne\n```"),
        ),
        color_scheme=scheme,
    )
    ask(page, "Hi")
    done(page)
    found = page.evaluate(
        CONTRAST,
        "button, summary *, p, .said, a, code, .stats, .seg span, .switch, .code span, h1, "
        "blockquote",
    )
    assert len(found) > 15
    assert [one for one in found if one[1] < 4.5] == []


def test_on_a_phone_nothing_is_cut_off(says, opened):
    code = "x = " + " + ".join(str(n) for n in range(80))
    wide = "|" + "column heading|" * 9 + "\n|" + "---|" * 9 + "\n|" + "some words|" * 9
    page = opened(
        says(
            final(
                f"```python\n{code}\n```\n\n{wide}\n\n{'long' * 60} `{'code' * 60}`\n\n"
                + "https://a.example/"
                + "x" * 300
            )
        ),
        viewport={"width": 360, "height": 640},
    )
    ask(page, "w" * 300)
    done(page)
    for what in (
        "document.documentElement",
        "document.querySelector('#scroll')",
        "document.querySelector('#log')",
    ):
        assert page.evaluate(f"() => {what}.scrollWidth <= {what}.clientWidth"), what
    expect(page.locator("#chats")).not_to_be_in_viewport()
    page.get_by_role("button", name="Conversations", exact=True).click()
    expect(page.locator("#chats .chat-name")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.locator("#chats")).to_be_hidden()
    for name in ("Send", "Settings", "Dark mode"):
        box = page.get_by_role("button", name=name, exact=True).bounding_box()
        assert (
            box["x"] >= 0
            and box["x"] + box["width"] <= 360
            and min(box["width"], box["height"]) >= 32
        )


def test_on_a_phone_the_controls_stand_in_one_row(says, opened):
    page = opened(says(final("ok")), viewport={"width": 360, "height": 640})
    controls = page.get_by_label("Reasoning effort low"), page.get_by_role("switch")
    buttons = (page.get_by_role("button", name=name) for name in ("Attach files", "Send"))
    boxes = [each.bounding_box() for each in (*controls, *buttons)]
    middles = [box["y"] + box["height"] / 2 for box in boxes]
    assert max(middles) - min(middles) < 4
    assert all(left["x"] + left["width"] <= right["x"] for left, right in pairwise(boxes))


def test_everything_can_be_done_with_keys_alone(says, opened):
    page = opened(says(final("first"), final("second")))
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_have_text("one\ntwo")
    done(page)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        label, ring = page.evaluate(
            """() => { const e = document.activeElement;
                const shown = e.type === "radio" ? e.nextSibling : e;
                return [e.getAttribute("aria-label") ?? e.id,
                        getComputedStyle(shown).outlineStyle]; }"""
        )
        reached.add(label)
        assert ring == "solid" or label in ("", "text", None), f"no focus can be seen on {label}"
        if label == "Regenerate answer":
            break
    assert reached >= {
        "Rename one",
        "Delete one",
        "Settings",
        "Dark mode",
        "Copy message",
        "Edit message",
        "Copy answer",
        "new",
    }
    page.keyboard.press("Enter")
    expect(page.locator(".md")).to_have_text("second")
    page.keyboard.press("Control+k")
    expect(page.locator("#hello")).to_be_visible()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


def test_copying(says, opened):
    answer = "Some *words*:\n\n```python\nprint('<hi>')\n\n\treturn\n```\n"
    page = opened(says(final(answer)), permissions=["clipboard-read", "clipboard-write"])
    ask(page, "A question")
    done(page)
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == "print('<hi>')\n\n\treturn"
    page.get_by_role("button", name="Copy answer").click()
    expect(page.locator("#toast")).to_be_visible()
    assert clipboard(page).strip() == answer.strip()
    page.get_by_role("button", name="Copy message").click()
    page.wait_for_timeout(50)
    assert clipboard(page) == "A question"


def test_a_long_answer_over_the_wire_leaves_the_page_alive(says, opened):
    text = "".join(
        f"## Part {n}\n\nSome **words** about it, and more.\n\n- one\n- two\n\n" for n in range(150)
    )
    page = opened(says(final(text)))
    page.evaluate("""() => { window.longest = 0; let last = performance.now();
        const tick = () => { const now = performance.now();
            longest = Math.max(longest, now - last); last = now; requestAnimationFrame(tick); };
        tick(); }""")
    ask(page, "Much")
    expect(page.get_by_role("button", name="Regenerate answer")).to_have_count(1, timeout=30000)
    expect(page.locator(".md h2")).to_have_count(150)
    expect(page.locator(".md h2").last).to_be_in_viewport()
    assert page.evaluate("() => longest") < 500


def test_who_reads_above_is_left_there(says, opened):
    page = opened(says(final("line\n\n" * 200), delay=0.004))
    ask(page, "Much")
    expect(page.locator(".md p").nth(40)).to_be_visible()
    page.mouse.move(700, 300)
    page.mouse.wheel(0, -600)
    expect(page.get_by_role("button", name="Latest")).to_be_visible()
    place = page.evaluate("() => document.querySelector('#scroll').scrollTop")
    page.wait_for_timeout(300)
    assert page.evaluate("() => document.querySelector('#scroll').scrollTop") == place
    page.get_by_role("button", name="Latest").click()
    expect(page.locator(".md p").last).to_be_in_viewport()


REASONS = (
    "The cache holds keys and values of the 12 layers with full attention: 12 × 2 × 8 × 64 × 2 "
    "bytes, 24 KiB a token. "
    "The windowed layers keep 128 tokens at most, which is nothing here. So 24 GiB over 24 KiB."
)
REPLY = """**1,048,576 tokens** fit, which is eight full contexts.

| Layers | A token takes | A full context takes |
|:--|--:|--:|
| 12 with full attention | 24 KiB | 3 GiB |
| 12 with a window of 128 | – | 3 MiB |

```python
per_token = 12 * 2 * 8 * 64 * 2  # layers, K and V, heads, width, bytes
print(24 * 2**30 // per_token)   # 1048576
```

1. Prefixes that conversations share are kept once.
2. What is left over serves the next one.
"""


@pytest.mark.skipif(
    not os.environ.get("OSSIA_SCREENSHOTS"), reason="OSSIA_SCREENSHOTS says no folder for pictures"
)
def test_pictures(says, opened):
    folder = Path(os.environ["OSSIA_SCREENSHOTS"])
    asks = call("calculator", expression="24 * 2^30 / (24 * 2^10)")
    url = says(
        final("ok"),
        final("ok"),
        thought(REASONS) + asks,
        thought("It is 2^20. " * 2) + final(REPLY),
        delay=0.004,
    )
    views = {
        "desktop": ({"viewport": {"width": 1280, "height": 900}}, "light"),
        "dark": ({"viewport": {"width": 1280, "height": 900}}, "dark"),
        "phone": (
            {
                "viewport": {"width": 390, "height": 844},
                "device_scale_factor": 2,
                "has_touch": True,
            },
            "light",
        ),
    }
    page = opened(url)
    for text in ("Why are there attention sinks?", "A haiku about rotary embeddings"):
        ask(page, text)
        done(page)
        page.keyboard.press("Control+k")
    ask(page, "I have 24 GiB for the KV cache of gpt-oss-20b. How many tokens fit?")
    done(page)
    kept = page.evaluate("() => JSON.stringify(localStorage)")
    for name, (options, scheme) in views.items():
        page = opened(url, color_scheme=scheme, **options)
        page.evaluate("kept => Object.assign(localStorage, JSON.parse(kept))", kept)
        page.reload()
        expect(page.locator("#model")).to_have_text("nano")
        if name == "dark":
            page.locator("details.thought summary").first.click()
            page.locator("details.call summary").click()
        page.evaluate(
            "end => { scroll.scrollTop = end ? 1e6 : 0; }".replace(
                "scroll.", "document.querySelector('#scroll')."
            ),
            name != "dark",
        )
        page.wait_for_timeout(100)
        picture = folder / f"page-{name}.png"
        page.screenshot(path=picture)
        assert picture.stat().st_size < 300_000
