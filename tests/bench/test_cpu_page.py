"""The page on a machine: its name and its tables, from numbers that are given; and what /proc says
of a processor.
"""

from __future__ import annotations

import cpu_page

from ossia.commands import machine

CPUINFO = """\
processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 17
model name	: AMD EPYC
stepping	: 1
flags		: fpu sse2 avx f16c fma avx2 avx512f avx512_vnni avx512_bf16 rdpid
"""


def test_a_processor_is_read_from_proc() -> None:
    assert machine.cpu_name(CPUINFO) == "AMD EPYC"
    assert machine.cpu_family(CPUINFO) == "family 25 model 17 stepping 1"
    assert machine.cpu_flags(CPUINFO) == [
        "avx",
        "f16c",
        "fma",
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
    ]
    assert machine.cpu_flags("Features\t: fp asimd asimddp\n") == ["asimd", "asimddp"]
    assert machine.cpu_flags("") == [] and machine.cpu_family("") == ""
    assert machine.cpu_name("") and machine.cpu_name() and machine.processors() > 0


def test_pages_are_named_after_the_processor_without_its_stepping() -> None:
    assert (
        cpu_page.slug("AMD EPYC", "family 25 model 17 stepping 1") == "amd-epyc-family-25-model-17"
    )
    assert cpu_page.slug("Intel(R) Core(TM) i7", "") == "intel-r-core-tm-i7"


def test_what_others_used_is_never_negative() -> None:
    others = machine.Others()
    assert others.processors(own_seconds=1e9) == 0


def test_kernels_stand_by_rows_and_low_shares_are_bold() -> None:
    def one(rows: int, seconds: float | None, share: float | None) -> dict[str, object]:
        return {
            "kernel": "dense",
            "rows": rows,
            "seconds": seconds,
            "share": share,
            "limit": "memory",
            "expected": 9.0,
        }

    shares = [one(8, 0.002, 0.3), one(1, 0.001, 0.8), one(64, None, None)]
    text = cpu_page.kernel_table("avx2", {"kernels_1t": shares, "others": 0.5})
    assert "| | 1 | 8 | 64 |" in text
    assert "| dense | 80% m, 1.00 ms | **30% m**, 2.00 ms | **about 9 s** |" in text


def test_ceilings_stand_by_instruction_set() -> None:
    peak = {
        "fp32_gflop_s": 117.6,
        "bf16_gflop_s": 235.0,
        "int8_gop_s": 470.0,
        "int8_small_gop_s": 470.0,
    }
    text = cpu_page.ceilings_table({"avx512": peak}, {1: 30.0, 2: 52.5}, used=0.0)
    assert "30.0 GB/s with 1 thread, 52.5 GB/s with 2 threads" in text
    assert "| avx512 | 118 | 235 | 470 | 470 |" in text
    assert "busy" not in text and "busy" in cpu_page.ceilings_table(
        {"avx512": peak}, {1: 30.0}, used=0.7
    )


def test_speeds_are_medians_with_their_share_and_say_when_others_were_busy() -> None:
    found = {"isa": "avx2", "resident_bytes": 2e9, "others": 0.0, "bounds": {"decode_0": 40.0}}
    found["decode_0"] = [10.0, 20.0, 30.0]
    text = cpu_page.speed_table("int8", found, used=0.0)
    assert "| decode_0 | 20.00 | 10.00 to 30.00 | 50% |" in text
    assert "busy" not in text and "busy" in cpu_page.speed_table("int8", found, used=0.7)
