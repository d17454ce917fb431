"""Kernels made of formulas, run as Metal, against the CPU's evaluator and float64."""

import re

import mlx.core as mx
import numpy as np
import pytest
import zmlx
from formula_cases import (
    GROUPS,
    broadcasts_and_strides,
    divisors_of_any_magnitude,
    ends_of_functions,
    integers_at_their_ends,
    rows_of_any_length,
    transforms,
    transforms_of_rows,
    types_and_sizes,
    types_of_16_bits,
)
from formulas import Call, Formulas
from kernel_cases import HALF_UNIT, UNARY, doubles, sweep
from msl import MslFault, Options
from random_formulas import KINDS, corpus_program, in_one, inputs_of_one, random_formulas


def difference(call, outputs):
    """The first number that is not the CPU's, to the last digits and a rounding to the type."""
    for number, (found, expected) in enumerate(zip(outputs, call.expected, strict=True)):
        rtol = call.rtol + 2 * HALF_UNIT.get(expected.dtype, 0)
        found, expected = doubles(found).ravel(), doubles(expected).ravel()
        same = np.isclose(found, expected, rtol=rtol, atol=call.atol, equal_nan=True)
        if not same.all():
            k = int((~same).argmax())
            return (
                f"{call}: {(~same).sum()} of output {number} differ, first {found[k]} at {k}, not "
                f"{expected[k]}\n{call.kernel.explain()}"
            )
    return None


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_formulas_compute_what_the_cpu_does(group):
    calls = list(group())
    for contract in (False, True):
        formulas = Formulas(calls, Options(contract=contract))
        for call in calls:
            found = difference(call, formulas.run(call, variant=int(contract)))
            assert found is None, f"{found}contract: {contract}"


def small(calls, most):
    """One call of each text, of arrays with gaps of each shape, of at most so many elements."""
    chosen = {}
    for call in calls:
        if max(x.size for x in call.inputs) <= most:
            numbers = call.launch["numbers"].items()
            gaps = [number for name, number in numbers if re.match(r"[nos]\d", name)]
            chosen.setdefault((call.launch["text"], tuple(gaps)), call)
    return list(chosen.values())


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_formulas_read_and_share_memory_rightly(group):
    """Every access is checked: bounds, alignment, races, barriers that not all threads reach."""
    calls = small(group(), 25_000)
    formulas = Formulas(calls, Options(checked=True))
    for call in calls:
        found = difference(call, formulas.run(call))
        assert found is None, found


BARRIER = r"threadgroup_barrier\(mem_flags::mem_threadgroup\);"
SOME_MISS = "if (thread_index_in_simdgroup < 16) " + BARRIER.replace("\\", "")
TILE = r"(u < [234];[^\n]*\n.* first \+ u \* )256"
# A fault in what is printed, and the calls that must notice it.
FAULTS = {
    "log1p at its end": (r"u > 0.0f && u < INFINITY", "u > 0.0f", ends_of_functions),
    "the sign of zero": (r"\? -1.0f : x;", "? -1.0f : x + 1e-6f;", ends_of_functions),
    "max for min": (r"metal::fmin", "metal::fmax", ends_of_functions),
    "one function for another": (
        r"metal::precise::cosh",
        "metal::precise::sinh",
        ends_of_functions,
    ),
    "NaN to int": (r"x != x \? 0 : -2147483647 - 1", "-2147483647 - 1", integers_at_their_ends),
    "the largest int": (r"x < 2147483648.0f", "x <= 2147483648.0f", integers_at_their_ends),
    "division by zero": (r"b == 0u \? 0u : a / b", "a / (b | 1u)", integers_at_their_ends),
    "shifts by more than 15": (r" & 31\)", " & 15)", integers_at_their_ends),
    "elements behind vectors": (r"< size % 4\)", "< size % 2)", types_and_sizes),
    "the second vector": (TILE, r"\g<1>255", types_and_sizes),
    "one element for all": (r"in1\[0\]", "(in1[0] + 1)", broadcasts_and_strides),
    "where an array begins": (r"= o1 \+", "=", broadcasts_and_strides),
    "the second axis": (r"\+ c1 \* s", "+ c0 * s", broadcasts_and_strides),
    "an element of a column": (r"j \* s1_2", "j", broadcasts_and_strides),
    "a vector of a row": (r"(in1 \+ o1 \+ c0 \* s1_0) \+ c1", r"\1", broadcasts_and_strides),
    "the length of an axis": (r"rest % n1", "rest % (n1 + 1)", broadcasts_and_strides),
    "rounding to bfloat16": (r"bfloat16_t\((y\d)\)", r"bfloat16_t(\1 * 1.02f)", types_and_sizes),
    "a cast to half": (r"float\(half\(x\)\)", "x", types_of_16_bits),
    "a cast to bfloat": (r"float\(bfloat16_t\(x\)\)", "float(half(x))", types_of_16_bits),
    "sums": (r"\((\w+) \+ ", r"(\1 - ", transforms),
    "half of a simdgroup": (r"ushort d = 16", "ushort d = 8", rows_of_any_length),
    "one simdgroup": (r"(shared\d)\[thread_index_in_simd\w+ % 16\]", r"\1[0]", rows_of_any_length),
    "a barrier that some miss": (BARRIER, SOME_MISS, rows_of_any_length),
    "the next row": (r"\(row\) \* length", "(row) * (length - 1)", rows_of_any_length),
    "one number a row": (r"if \(lane == 0\)", "if (lane < 0)", rows_of_any_length),
    "what sums start from": (r"float acc0 = 0.0[e+0]*f", "float acc0 = 1.0f", rows_of_any_length),
    "what is kept": (r"(kept0\[[^\]]*\] = )", r"\g<1>1.001f * ", rows_of_any_length),
    "the cotangent of a row": (r"in1\[row\]", "in1[0]", transforms_of_rows),
    "the inverse's scale": (r"x \* scale", "x", divisors_of_any_magnitude),
}
# What shows only where accesses are checked.
FAULTS_OF_MEMORY = {
    "one vector too many": (r"if \(i < whole\)", "if (i <= whole)", types_and_sizes),
    "a row's end": (r"if \(q >= length\)", "if (q > length)", rows_of_any_length),
    "no barrier": (BARRIER, "", rows_of_any_length),
}


@pytest.mark.parametrize("fault", [*FAULTS, *FAULTS_OF_MEMORY])
def test_faults_are_noticed(fault):
    checked = fault in FAULTS_OF_MEMORY
    old, new, group = (FAULTS_OF_MEMORY if checked else FAULTS)[fault]
    calls = list(group())
    if checked:
        calls = small(calls, 25_000)
    texts = dict.fromkeys(c.launch["text"] for c in calls)
    # Some of those that hold the text, if it is not what formulas call.
    if own := [text for text in texts if re.search(old, text)]:
        texts = set(own[:: 1 + len(own) // 16])
    calls = [c for c in calls if c.launch["text"] in texts]
    changes = 0

    def change(text):
        nonlocal changes
        text, made = re.subn(old, new, text)
        changes += made
        return text

    formulas = Formulas(calls, Options(checked=checked), change)
    assert changes, "no text has this any more"
    noticed = 0
    for call in calls:
        try:
            noticed += difference(call, formulas.run(call)) is not None
        except MslFault:
            noticed += 1
    assert noticed, f"none of {len(calls)} kernels"


def test_functions_are_as_accurate_as_stated():
    calls = {}
    for name, (_, _, low, high) in UNARY.items():
        calls[name] = Call(zmlx.elementwise(f"{name}(x)"), [mx.array(sweep(low, high))])
    formulas = Formulas(list(calls.values()))
    for name, call in calls.items():
        function, ulps, _, _ = UNARY[name]
        x = np.array(call.inputs[0])
        exact = np.array([float(function(float(v))) for v in x])
        unit = np.spacing(np.maximum(np.abs(exact), 1e-37).astype(np.float32)).astype(np.float64)
        errors = np.abs(doubles(formulas.run(call)[0]) - exact) / unit
        worst = int(errors.argmax())
        assert errors[worst] <= max(ulps, 0.5), f"{name}: {errors[worst]} at {x[worst]}"


@pytest.mark.parametrize("contract", [False, True])
def test_random_formulas_agree_with_float64(contract, tmp_path):
    program = corpus_program(tmp_path)
    # Some by themselves; most of them sixteen at a time, for the compiler's sake.
    parts = [[f] for f in random_formulas(program, 11 + contract, 64)]
    many = random_formulas(program, 101 + contract, 2400)
    parts += [many[k : k + 16] for k in range(0, len(many), 16)]
    calls = []
    for part in parts:
        kernel = zmlx.elementwise(in_one(part), inputs=["a", "b", "c", "k"])
        inputs = [mx.array(x) for x in inputs_of_one(part)]
        calls.append((part, Call(kernel, inputs)))
        calls.append((part, Call(kernel, [*inputs, mx.ones_like(inputs[0])], "vjp")))
    formulas = Formulas([call for _, call in calls], Options(contract=contract))
    compared, sloped, off = 0, 0, []
    for part, call in calls:
        found = doubles(formulas.run(call, variant=int(contract))[0]).reshape(len(part), -1)
        for f, numbers in zip(part, found, strict=True):
            known = np.isfinite(f.value)
            if call.of == "value":
                wrong = known & ~(np.abs(numbers - f.value) <= 2 * f.error + 1e-30)
                compared += int(known.sum())
                for k in np.flatnonzero(wrong):
                    raise AssertionError(
                        f"{f.text} at {f.inputs[:, k]}: {numbers[k]}, not {f.value[k]}"
                    )
                continue
            size = 1 + np.abs(f.slope)
            smooth = known & (f.slope_error <= 1e-4 * size) & (f.error <= 1e-5 * size)
            sloped += int(smooth.sum())
            bad = smooth & ~(np.abs(numbers - f.slope) <= 2e-3 * size)
            off += [f"{f.text} at {f.inputs[:, k]}" for k in np.flatnonzero(bad)]
    assert compared > 50_000 and sloped > 25_000
    # Where digits cancel in the derivative alone, nothing bounds its error.
    assert len(off) <= 2e-3 * sloped, f"{len(off)} of {sloped}:\n" + "\n".join(off[:5])


@pytest.mark.parametrize("kind, dtype", KINDS.items(), ids=KINDS)
def test_random_formulas_of_16_bits_are_rounded_rightly(kind, dtype, tmp_path):
    many = random_formulas(corpus_program(tmp_path), 7, 640, depth=4, kind=kind)
    calls = []
    for k in range(0, len(many), 16):
        part = many[k : k + 16]
        kernel = zmlx.elementwise(
            in_one(part), inputs=["a", "b", "c", "k"], compute_dtype=getattr(mx, dtype)
        )
        calls.append((part, Call(kernel, [mx.array(x) for x in inputs_of_one(part)])))
    formulas = Formulas([call for _, call in calls])
    compared = 0
    for part, call in calls:
        found = doubles(formulas.run(call)[0]).reshape(len(part), -1)
        for f, numbers in zip(part, found, strict=True):
            known = np.isfinite(f.value)
            compared += int(known.sum())
            wrong = np.flatnonzero(known & ~(np.abs(numbers - f.value) <= 2 * f.error))
            assert not len(wrong), (
                f"{f.text} at {f.inputs[:, wrong[0]]}: {numbers[wrong[0]]}, not {f.value[wrong[0]]}"
            )
    assert compared > 8_000
