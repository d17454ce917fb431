"""The host finds what a GPU would not forgive: planted faults, beside clean kernels."""

import re

import numpy as np
import pytest
from msl import Library, MslFault, Options

CHECKED = Options(checked=True)
FAST = Options()


def launch(body, *, arguments="", prelude="", threads=64, group=64, n=64, options=CHECKED, **more):
    """Runs a kernel with the buffers `x` (read-only floats) and `y` (floats)."""
    source = f"""
using namespace metal;
{prelude}
[[kernel]] void planted(
    const device float* x [[buffer(0)]],
    device float* y [[buffer(1)]],
    uint i [[thread_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]{arguments}) {{
  {body}
}}
"""
    x = np.arange(n, dtype=np.float32)
    y = np.full(n, np.nan, np.float32)
    library = Library(source, options=options)
    library("planted", [x, y], grid=threads, threadgroup=group, **more)
    return x, y


REVERSE = """
  threadgroup float shared[64];
  shared[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = shared[63 - i];
"""


@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize("options", [CHECKED, FAST, Options(contract=True)])
def test_clean(options, variant):
    x, y = launch(REVERSE, options=options, variant=variant)
    np.testing.assert_array_equal(y, x[::-1])


@pytest.mark.parametrize("variant", [0, 1])
def test_clean_barriers_in_turn(variant):
    body = """
  threadgroup float sums[2];
  threadgroup float copies[64];
  for (int round = 0; round < 5; ++round) {
    const float sum = simd_sum(x[i]);
    if (lane == 0) sums[simdgroup] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    copies[i] = sums[0] + sums[1];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    y[i] = copies[i ^ 1];
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
"""
    _, y = launch(body, variant=variant)
    np.testing.assert_array_equal(y, 2016)


# name: (body, what the message says)
PLANTED = {
    "reads past a buffer": (
        "y[i] = x[i + 1];",
        r"\[planted\] reads out of bounds: 4 bytes at byte 256 of buffer 0 \('x', 256 bytes\), "
        r"by thread \(63, 0, 0\) of threadgroup \(0, 0, 0\), lane 31 of simdgroup 1",
    ),
    "reads before a buffer": (
        "y[i] = x[int(i) - 1];",
        r"reads out of bounds: 4 bytes at byte -4 of buffer 0 \('x'",
    ),
    "reads far away": ("y[i] = x[i * 1000000];", r"reads out of bounds.* buffer 0"),
    "writes past a buffer": (
        "y[i + 3] = 1;",
        r"writes out of bounds: 4 bytes at byte 256 of buffer 1 \('y', 256 bytes\)",
    ),
    "reads a vector outside": (
        "y[i] = ((const device float4*)x)[i / 4 + 1].y;",
        r"reads out of bounds: \d+ bytes at byte 2\d\d of buffer 0",
    ),
    "copies a struct half outside": (
        "S s = *(const device S*)(x + i); y[i] = s.v[i % 5];",
        r"reads out of bounds.*buffer 0",
    ),
    "reads a vector that is not aligned": (
        "y[i] = ((const device float2*)(x + 1))[lane / 4].y;",
        r"an address as one of type .*vec<float, 2>.* which is no multiple of 8: "
        r"byte 4 of buffer 0 \('x'\) \(<stdin>:\d+\)",
    ),
    "writes to an input": (
        "((device float*)x)[i] = 1;",
        r"writes to the read-only buffer 0 \('x'\)",
    ),
    "reads a wild pointer": (
        "y[i] = *(const device float*)(ulong(i) * 64 + 64);",
        r"in no buffer|not mapped",
    ),
    "threadgroup array past its end": (
        "threadgroup float shared[63]; shared[i] = 1;",
        r"index 63 is out of bounds of an array of type 'float ?\[63\]' \(<stdin>:\d+\)",
    ),
    "threadgroup pointer past its array's end": (
        "threadgroup float shared[63]; threadgroup float* to = shared; to[i] = 1;",
        r"writes out of bounds: 4 bytes at byte 252 of threadgroup array 'shared' \(252 bytes\)",
    ),
    "thread array past its end": (
        "float own[4]; for (uint k = 0; k < 4; ++k) own[k] = x[k]; y[i] = own[i];",
        r"index 4 is out of bounds of an array of type 'float ?\[4\]' \(<stdin>:\d+\)",
    ),
    "uninitialised threadgroup memory": (
        "threadgroup float shared[64]; if (i != 5) shared[i] = 1;"
        "threadgroup_barrier(mem_flags::mem_threadgroup); y[i] = shared[i];",
        r"reads threadgroup array 'shared', byte 20: never written, by thread \(5, 0, 0\)",
    ),
    "too much threadgroup memory": (
        "threadgroup float a[5000]; threadgroup float b[5000]; a[i] = 1; b[i] = 1;",
        r"declares 40000 bytes of threadgroup memory",
    ),
    "missing barrier": (
        REVERSE.replace("threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
        r"threadgroup array 'shared'.*(race|never written)",
    ),
    "a simdgroup's barrier for the threadgroup's": (
        REVERSE.replace("threadgroup_barrier", "simdgroup_barrier"),
        r"threadgroup array 'shared'.*(race|never written)",
    ),
    "a barrier that orders no threadgroup memory": (
        REVERSE.replace("mem_threadgroup)", "mem_none)"),
        r"race with the write by thread",
    ),
    "written again before others have read": (
        REVERSE + "shared[i] = 2;",
        r"threadgroup array 'shared'.*race with (a read|the write)",
    ),
    "written after another simdgroup has read": (
        REVERSE + "y[i] += shared[63]; if (i == 63) shared[63] = 2;",
        r"writes threadgroup array 'shared', byte 252: a race with a read by thread \d+, "
        r"by thread \(63, 0, 0\)",
    ),
    "written after another lane has read": (
        REVERSE + "if (simdgroup == 0) { y[i] += shared[31]; if (lane == 31) shared[31] = 2; }",
        r"writes threadgroup array 'shared', byte 124: a race with a read by thread \d+, "
        r"by thread \(31, 0, 0\)",
    ),
    "ordered after its own simdgroup's reads only": (
        REVERSE + "y[i] += shared[5]; simdgroup_barrier(mem_flags::mem_threadgroup);"
        "threadgroup_barrier(mem_flags::mem_none); if (i == 0) shared[5] = 2;",
        r"writes threadgroup array 'shared', byte 20: a race with a read by thread \d+, "
        r"by thread \(0, 0, 0\)",
    ),
    "race of two writes": (
        "threadgroup float shared[64]; shared[i / 2] = i;",
        r"writes threadgroup array 'shared', byte 0: a race with the write by thread [01]\b",
    ),
    "race within a simdgroup": (
        "threadgroup float shared[64]; shared[i] = x[i]; y[i] = shared[i ^ 1];",
        r"threadgroup array 'shared'.*(race|never written)",
    ),
    "simd_sum does not order memory": (
        "threadgroup float shared[64]; shared[i] = x[i]; simd_sum(x[i]); y[i] = shared[i ^ 1];",
        r"race with the write by thread",
    ),
    "a lane ends before a barrier": (
        "if (lane == 7) return; threadgroup_barrier(mem_flags::mem_threadgroup); y[i] = 1;",
        r"divergence: of one simdgroup, .* waits at threadgroup_barrier \(<stdin>:\d+\), while "
        r".*lane 7 of simdgroup 0 has ended",
    ),
    "a simdgroup ends before a barrier": (
        "if (simdgroup == 1) return; threadgroup_barrier(mem_flags::mem_threadgroup); y[i] = 1;",
        r"divergence: of one threadgroup, .*simdgroup 0 waits .*simdgroup 1 has ended",
    ),
    "a lane ends before a simd operation": (
        "if (lane == 31) return; y[i] = simd_sum(x[i]);",
        r"divergence.*simd_sum.*has ended",
    ),
    "half of the lanes at a simd operation": (
        "float s = 0; if (lane < 16) s = simd_sum(x[i]);"
        "threadgroup_barrier(mem_flags::mem_none); y[i] = s;",
        r"divergence.*waits at simd_sum.*waits at threadgroup_barrier",
    ),
    "two barriers in two branches": (
        "if (lane < 16) {\n threadgroup_barrier(mem_flags::mem_none);\n} else {\n"
        "threadgroup_barrier(mem_flags::mem_none);\n} y[i] = 1;",
        r"divergence: of one simdgroup.*threadgroup_barrier.*threadgroup_barrier",
    ),
    "another simd operation": (
        "y[i] = lane < 16 ? simd_max(x[i]) : simd_min(x[i]);",
        r"divergence.*waits at simd_max.*waits at simd_min",
    ),
}


@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize("name", PLANTED)
def test_fault(name, variant):
    body, message = PLANTED[name]
    with pytest.raises(MslFault) as fault:
        launch(body, prelude="struct S { float v[5]; };", variant=variant)
    if variant == 0:  # variant 1 runs lanes from the last to the first and finds another one
        assert re.search(message, str(fault.value)), str(fault.value)


def test_unchecked_bad_address_is_a_fault():
    with pytest.raises(MslFault, match="not mapped"):
        launch("y[i] = x[i * 1000000];", options=FAST)


def test_atomics_do_not_race():
    body = """
  threadgroup atomic_uint count;
  if (i == 0) atomic_store_explicit(&count, 0u, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&count, i, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = atomic_load_explicit(&count, memory_order_relaxed);
"""
    _, y = launch(body)
    np.testing.assert_array_equal(y, 2016)


def test_atomics_are_checked():
    with pytest.raises(MslFault, match="out of bounds"):
        launch("atomic_fetch_add_explicit((device atomic_uint*)(y + 64), i, memory_order_relaxed);")


def test_function_constants():
    source = """
constant bool flag [[function_constant(7)]];
[[kernel]] void f(device float* y [[buffer(0)]]) { y[0] = flag ? 2 : 1; }
"""
    library = Library(source)
    y = np.zeros(1, np.float32)
    for value in (False, True):
        library.set_constants(flag=value)
        library("f", [y], grid=1, threadgroup=1)
        assert y[0] == 1 + value


def test_last_threadgroup_is_smaller():
    _, y = launch("y[i] = simd_sum(1.0f);", threads=40, group=32)
    np.testing.assert_array_equal(y[:40], [32] * 32 + [8] * 8)
    assert np.isnan(y[40:]).all()
