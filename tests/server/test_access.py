"""API keys and limits, without HTTP."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.errors import RequestError
from ossia.server.access import Access, Caller, Lease, presented, secret_digest
from ossia.server.keys import merged, parse_keys, read_keys, read_users
from ossia.server.settings import ApiKey, Limits
from ossia.server.wire.errors import ApiError
from ossia.turn.events import Usage


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def key(name: str, secret: str, **limits: int) -> ApiKey:
    return ApiKey(name, secret_digest(secret), Limits(**limits))


# ---- keys ----------------------------------------------------------------------------------------


def test_lines_of_keys() -> None:
    digest = hashlib.sha256(b"s3cret").hexdigest()
    lines = [
        "# of the team", "", "alice s3cret-a concurrent=2   tokens-per-minute=1000 # a comment",
        f"bob sha256:{digest.upper()}", "alone#not-a-comment",
    ]  # fmt: skip
    alice, bob, alone = parse_keys(lines, "keys")
    assert alice == key("alice", "s3cret-a", concurrent=2, tokens_per_minute=1000)
    assert bob == ApiKey("bob", digest)
    assert (
        alone.digest == secret_digest("alone#not-a-comment")
        and alone.name == "key-" + alone.digest[:12]
    )


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("a b c", "expected"), ("a b concurrent=0", "concurrent must be"),
        ("a b concurrent=x", "concurrent must be"),
        ("concurrent=2 a", "expected"), ("concurrent=2", "expected"),
        ("a sha256:abc", "64 hex digits"),
        ("a b priority=fast", "priority must be chat or batch"),
        ("a b admin=1", "admin must be yes or no"),
        ("a b tokens-per-day=0", "tokens-per-day must be"),
        ("# nothing", "no keys"),
    ],
)  # fmt: skip
def test_lines_that_make_no_sense(line: str, wrong: str) -> None:
    with pytest.raises(RequestError, match=wrong):
        parse_keys([line], "keys.txt")


def test_errors_do_not_repeat_a_secret() -> None:
    with pytest.raises(RequestError) as error:
        parse_keys(["alice my-secret and-more"], "keys.txt")
    assert "my-secret" not in str(error.value) and "keys.txt, line 1" in str(error.value)


def test_a_name_has_one_set_of_limits_and_a_secret_one_name() -> None:
    rotated = (key("alice", "old", concurrent=1), key("alice", "new", concurrent=1))
    assert merged([*rotated, rotated[0]], "keys") == rotated
    with pytest.raises(RequestError, match="different limits"):
        merged([key("alice", "old"), key("alice", "new", concurrent=1)], "keys")
    with pytest.raises(RequestError, match="the same key"):
        merged([key("alice", "same"), key("bob", "same")], "keys")


def test_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("alice secret\n")
    assert read_keys(file) == (key("alice", "secret"),)
    with pytest.raises(RequestError, match="No such file"):
        read_keys(tmp_path / "missing")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="not a text file"):
        read_keys(file)


TOML = """
[[keys]]
name = "alice"
key = "secret-a"
concurrent = 2

[[keys]]
sha256 = "{digest}"
tokens-per-minute = 1000
"""


def test_a_file_of_keys_in_toml(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"secret-b").hexdigest()
    for name in ("keys.toml", "keys"):  # by what is in it, or by its name
        file = tmp_path / name
        file.write_text(TOML.format(digest=digest.upper()))
        assert read_keys(file) == (
            ApiKey("alice", hashlib.sha256(b"secret-a").hexdigest(), Limits(concurrent=2)),
            ApiKey(f"key-{digest[:12]}", digest, Limits(tokens_per_minute=1000)),
        )


def test_batch_work_budgets_and_administrators(tmp_path: Path) -> None:
    line = "eve s priority=batch tokens-per-day=1000 admin=yes metrics=yes"
    limits = Limits(priority="batch", tokens_per_day=1000, admin=True, metrics=True)
    assert parse_keys([line, "bob b admin=no priority=chat"], "keys") == (
        ApiKey("eve", secret_digest("s"), limits),
        key("bob", "b"),
    )
    file = tmp_path / "keys.toml"
    table = "[[keys]]\nname = 'eve'\nkey = 's'\npriority = 'batch'\ntokens-per-day = 1000\n"
    file.write_text(
        f"{table}admin = true\nmetrics = true\n[users]\nconcurrent = 2\ntools = ['browser']\n"
    )
    assert read_keys(file) == (ApiKey("eve", secret_digest("s"), limits),)
    assert read_users(file) == Limits(concurrent=2, tools=frozenset({"browser"}))
    file.write_text("[users]\n")
    assert read_keys(file, has_users=True) == () and read_users(file) == Limits()
    with pytest.raises(RequestError, match="--user-header"):  # or anybody might ask
        read_keys(file)
    file.write_text("[users]\nadmin = true\n")
    with pytest.raises(RequestError, match="users: admin"):
        read_users(file)  # a header is no key
    lines = tmp_path / "keys.txt"
    lines.write_text("alice secret\n")
    assert read_users(lines) == Limits()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "[[keys]]"),
        ("keys = 3", "[[keys]]"),
        ("[[keys]", "not valid TOML"),
        ("[[keys]]", "either key or sha256"),
        ("[[keys]]\nkey = 'hush'\nsha256 = 'hush'", "key 1: sha256"),
        ("[[keys]]\nkey = 'hush'\nconcurrent = 0", "key 1: concurrent"),
        ("[[keys]]\nkey = 'hush'\nconcurent = 1", "key 1: concurent"),
        ("[[keys]]\nkey = 'hush'\n[[keys]]\nkey = 'hush'\nname = 'other'", "the same key"),
        ("[[keys]]\nkey = 7777", "key 1: key"),
    ],
)
def test_toml_that_makes_no_sense(tmp_path: Path, text: str, wrong: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(RequestError) as raised:
        read_keys(file)
    assert wrong in str(raised.value)
    assert "hush" not in str(raised.value) and "7777" not in str(raised.value)


@pytest.mark.parametrize(
    ("headers", "secrets"),
    [
        ({}, []),
        ({"authorization": "Bearer abc"}, ["abc"]),
        ({"authorization": " bEaReR   abc  "}, ["abc"]),
        ({"authorization": "Basic abc"}, []),
        ({"authorization": "Bearer"}, []),
        ({"authorization": "Bearer a", "x-api-key": "b"}, ["a", "b"]),
        ({"x-api-key": " b "}, ["b"]),
    ],
)
def test_where_secrets_stand(headers: dict[str, str], secrets: list[str]) -> None:
    assert presented(headers) == secrets


def test_who_has_a_key() -> None:
    access = Access([key("alice", "a"), key("bob", "b"), key("alice", "a2")])
    assert access.caller({"authorization": "Bearer a"}).name == "alice"
    assert access.caller({"authorization": "Bearer a"}) is access.caller({"x-api-key": "a2"})
    assert access.caller({"authorization": "Bearer nonsense", "x-api-key": "b"}).name == "bob"


@given(st.text())
def test_any_other_header_is_a_401(text: str) -> None:
    access = Access([ApiKey("alice", "0" * 64)])
    for headers in (
        {"authorization": text},
        {"authorization": f"Bearer {text}"},
        {"x-api-key": text},
    ):
        with pytest.raises(ApiError) as error:
            access.caller(headers)
        assert error.value.status == 401 and error.value.headers["WWW-Authenticate"].startswith(
            "Bearer"
        )


def test_without_keys_everybody_is_one() -> None:
    access = Access((), Limits(concurrent=1))
    assert access.caller({}) is access.caller({"x-api-key": "whatever"})
    assert access.caller({}).limits.concurrent == 1


# ---- limits --------------------------------------------------------------------------------------


def test_tokens_flow_back() -> None:
    clock = Clock()
    caller = Caller("a", Limits(tokens_per_minute=600), clock=clock)
    assert caller.refusal() is None and caller.headers()["x-ratelimit-remaining-tokens"] == "600"
    caller.spend(Usage(650))  # an answer may take more than is left
    refusal = caller.refusal()
    assert refusal is not None and refusal.status == 429
    assert refusal.headers["Retry-After"] == "6"  # 51 tokens, 10 a second
    clock.now += 5
    assert caller.refusal() is not None
    clock.now += 1
    assert caller.refusal() is None
    assert caller.headers() == {
        "x-ratelimit-limit-tokens": "600", "x-ratelimit-remaining-tokens": "10",
        "x-ratelimit-reset-tokens": "59s",
    }  # fmt: skip
    clock.now += 3600
    assert caller.tokens_left == 600  # no more than a minute's worth is saved up


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0, 30)), max_size=30))
def test_nobody_gets_more_than_the_rate(steps: list[tuple[int, float]]) -> None:
    """Whatever the order: admitted requests took at most what a minute has at the beginning, what
    flowed since, and the last request's overdraft.
    """
    clock = Clock()
    caller, spent, began = Caller("a", Limits(tokens_per_minute=60), clock=clock), 0, clock.now
    for tokens, pause in steps:
        if caller.refusal() is None:
            caller.spend(Usage(tokens))
            spent += tokens
            assert spent <= 60 + (clock.now - began) + tokens
        clock.now += pause


def test_a_day_has_so_many_tokens_and_begins_at_midnight() -> None:
    caller = Caller("a", Limits(tokens_per_day=100))
    now = [1_800_000_000.0 // 86400 * 86400 + 86400 - 90.5]
    caller.today.clock = lambda: now[0]
    assert caller.refusal() is None
    caller.spend(Usage(60, 50, 60))  # cached ones count, too
    refusal = caller.refusal()
    assert refusal is not None and refusal.status == 429
    assert refusal.headers == {"Retry-After": "91", "x-should-retry": "false"}
    assert refusal.openai()["error"]["type"] == refusal.openai()["error"]["code"]
    assert refusal.openai()["error"]["code"] == "insufficient_quota"
    assert refusal.anthropic()["error"]["type"] == "rate_limit_error"
    now[0] += 91
    assert caller.refusal() is None


def test_batch_work_does_not_fill_the_queue_for_chats() -> None:
    """Chats have all of it; batch work what they leave."""
    access = Access(
        [
            ApiKey("chat", secret_digest("chat")),
            ApiKey("batch", secret_digest("batch"), Limits(priority="batch")),
        ],
        max_queue=4,
    )
    callers = {name: access.caller({"x-api-key": name}) for name in ("chat", "batch")}

    def fits(name: str) -> bool:
        access.count(callers[name], name, 1)
        refused = access.refusal(callers[name], name, 0, 0) is not None
        if refused:
            access.count(callers[name], name, -1)
        return not refused

    assert [fits("batch") for _ in range(6)] == [True] * 4 + [False] * 2
    assert [fits("chat") for _ in range(6)] == [True] * 4 + [False] * 2
    assert access.running == 8 and access.running_batch == 4
    for _ in range(2):
        access.count(callers["batch"], "batch", -1)
    assert not fits("batch"), "chats count for it"


def test_a_lease_lasts_as_long_as_somebody_holds_it() -> None:
    access, caller = Access(), Caller("a", Limits(concurrent=1))
    lease = Lease(access, caller)
    lease.hold()
    lease.hold()
    lease.release()
    assert (access.running, caller.running) == (1, 1)
    refusal = caller.refusal()
    assert refusal is not None and refusal.code == "concurrency_limit_exceeded"
    lease.release()
    assert (access.running, caller.running) == (0, 0) and caller.refusal() is None
    lease.hold()  # an answer that begins after the body has ended
    assert (access.running, caller.running) == (1, 1)
