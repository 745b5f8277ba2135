"""Ceilings and shares: names, errors and sums; nothing here depends on how fast the machine is."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ossia.errors import RequestError
from ossia.kernels.cpu import (
    ceiling_isas,
    offered,
    peaks,
    read_bandwidth,
    set_threads,
    shares,
    threads,
)

CEILING = {
    "read_gb_s": 10.0,
    "fp32_gflop_s": 100.0,
    "bf16_gflop_s": 200.0,
    "int8_gop_s": 400.0,
    "int8_small_gop_s": 500.0,
}


@pytest.fixture(autouse=True)
def same_threads(kernels: ctypes.CDLL) -> Iterator[None]:
    before = threads()
    yield
    set_threads(before)


def test_every_offered_instruction_set_has_ceilings(kernels: ctypes.CDLL) -> None:
    assert set(offered(kernels)) <= set(ceiling_isas())


def test_peaks_are_positive_and_never_below_what_can_stand_in_for_them(
    kernels: ctypes.CDLL,
) -> None:
    for isa in ceiling_isas():
        found = peaks(isa, 1, seconds=0.0)
        assert min(found.values()) > 0
        assert found["bf16_gflop_s"] >= found["fp32_gflop_s"]
        assert found["int8_small_gop_s"] >= found["int8_gop_s"]


def test_memory_is_read_by_one_thread_and_by_several(kernels: ctypes.CDLL) -> None:
    for count in (1, 3):
        assert read_bandwidth(count, seconds=0.0, size=9 << 20) > 0


def test_an_unknown_instruction_set_has_no_ceilings(kernels: ctypes.CDLL) -> None:
    with pytest.raises(RequestError, match=r"no ceilings are known for 'z80' .* generic"):
        peaks("z80", 1)


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What a process says that looks for its kernels with one instruction set and then another."""
    code = """
import os
from ossia.kernels import cpu
for isa in ("z80", "generic"):
    os.environ["OSSIA_ISA"] = isa
    try:
        print(cpu.isa())
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_environment_chooses_the_instruction_set(kernels: ctypes.CDLL, told: list[str]) -> None:
    assert told[1] == offered(kernels)[-1] == "generic"


@pytest.mark.slow
def test_an_instruction_set_that_is_not_offered_is_an_error_that_names_those_that_are(
    kernels: ctypes.CDLL, told: list[str]
) -> None:
    assert told[0] == (
        "RequestError: OSSIA_ISA=z80: there are no kernels of that name for this CPU; it has "
        f"{', '.join(offered(kernels))}"
    )


def kernel(name: str, call: shares.Call) -> shares.Kernel:
    return shares.Kernel(name, "int8_gop_s", 1_000_000, lambda rows: 1e7 * rows, lambda: call)


def test_the_bound_is_the_longer_of_reading_and_computing() -> None:
    one = kernel("one", lambda rows, copy: None)
    assert one.bound(1, CEILING) == (pytest.approx(1e-4), "memory")
    assert one.bound(8, CEILING) == (pytest.approx(2e-4), "arithmetic")


def test_small_numbers_of_rows_are_measured_first_and_all_of_them(kernels: ctypes.CDLL) -> None:
    calls: list[int] = []
    found = list(
        shares.measure([kernel("one", lambda rows, copy: calls.append(rows))], 1, rows=(8, 1))
    )
    assert [(one.kernel, one.rows) for one in found] == [("one", 1), ("one", 8)]
    assert calls == sorted(calls)


def test_what_would_take_too_long_is_not_called(
    kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "TOO_LONG", 0.0)
    calls: list[int] = []
    one = kernel("one", lambda rows, copy: calls.append(rows))
    found = list(shares.measure([one], 1, rows=(1, 8)))
    assert set(calls) == {1}
    assert found[1].seconds is None and found[1].expected > 0
    [_, slow] = shares.shares([one], found, CEILING)
    assert slow.share is None and shares.cell(slow).startswith("(about ")


def share(seconds: float) -> shares.Share:
    return shares.Share(shares.Measured("MXFP4 exact", 8, seconds), 0.001, "memory")


def test_a_kernel_is_warned_of_below_two_fifths_of_its_bound() -> None:
    good, bad = share(0.0024), share(0.01)
    assert shares.warnings([good, bad], "avx2") == [
        "MXFP4 exact, 8 rows: 10.0% of the bound that memory sets with avx2, where at least 40% "
        "are expected"
    ]


def test_a_share_survives_json() -> None:
    one = share(0.002)
    fields = json.loads(json.dumps(shares.as_dict(one)))
    assert shares.from_dict(fields) == one
    assert shares.cell(one) == "50% m     2.00 ms"
    assert "MXFP4 exact" in shares.as_text([one])


def test_a_clock_that_did_not_move_is_no_division_by_zero() -> None:
    assert shares._median_seconds(lambda rows, copy: None, 1, lambda: 5.0) == 0


@pytest.mark.parametrize("name", [one.name for one in shares.kernels()])
def test_kernels_can_be_called_as_they_are_measured(kernels: ctypes.CDLL, name: str) -> None:
    """Small memory: one copy of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "FAR", 1)
        [chosen] = [one for one in shares.kernels() if one.name == name]
        made = chosen.make()
        made(1, 0)
        made(8, 5)
