"""The layer benchmark's table and capsule."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zmlx.bench.moe_layer import Case, LayerResult
from zmlx.capsule import make_capsule, measurement
from zmlx.table import format_table


def result_text(result: LayerResult, memory: dict[str, Any] | None) -> str:
    """The table of one layer, for people."""
    shape, settings = result.shape, result.settings
    ratios = settings.stock_dtypes
    header = ["M", "type", "time ms", "spread", "GB/s", "of read", "GFLOP/s", "experts"]
    header += [f"stock {dtype} ms" for dtype in ratios] + [f"x {dtype}" for dtype in ratios]
    rows = [_row(result, case, dtype) for case in result.cases for dtype in settings.dtypes]
    lines = [
        f"{shape.name}: D {shape.width}, H {shape.expert_width}, E {shape.experts}, "
        f"K {shape.top_k}, {shape.format}, group {shape.group_size}"
        + (", biases" if shape.bias else "")
        + f", {shape.activation}",
        f"Read bandwidth {result.bandwidth.bytes_per_second / 1e9:.1f} GB/s "
        f"({settings.threads} threads, {result.bandwidth.size / 2**20:.0f} MiB, "
        f"{len(result.bandwidth.series.seconds)} passes between the calls)",
        f"Expert bytes read between two uses of the same expert: at least "
        f"{min(case.reuse_bytes for case in result.cases) / 1e6:.0f} MB "
        f"({result.layers} layer(s) of weights)",
        *format_table(header, rows, right=range(len(header))),
        *_notes(result),
    ]
    if memory:
        lines += _memory_lines(result, memory)
    return "\n".join(lines)


def _row(result: LayerResult, case: Case, dtype: str) -> list[str]:
    series = case.patched[dtype]
    row = [
        str(case.tokens),
        dtype,
        f"{1e3 * series.median:.3f}",
        f"{100 * series.spread:.0f} %",
        f"{result.rate(case, dtype) / 1e9:.1f}",
        f"{100 * result.share(case, dtype):.0f} %",
        f"{result.flops(case, dtype) / 1e9:.0f}",
        str(case.distinct),
    ]
    stock = [case.stock.get(name) for name in result.settings.stock_dtypes]
    ratios = [result.ratio(case, dtype, name) for name in result.settings.stock_dtypes]
    row += [f"{1e3 * series.median:.1f}" if series else "-" for series in stock]
    return row + [f"{ratio:.1f}" if ratio else "-" for ratio in ratios]


def _notes(result: LayerResult) -> list[str]:
    notes = []
    for case in result.cases:
        for dtype, series in case.stock.items():
            if len(series.seconds) < 3:
                notes.append(
                    f"M = {case.tokens}: stock {dtype} was timed {len(series.seconds)} time(s), "
                    f"within {result.settings.stock_seconds:.0f} s"
                )
        missing = [name for name in result.settings.stock_dtypes if name not in case.stock]
        if missing:
            notes.append(f"M = {case.tokens}: stock {', '.join(missing)} was left out as asked")
        for dtype, paths in case.paths.items():
            slow = [path for path in paths if ": fallback" in path]
            if slow:
                notes.append(f"M = {case.tokens}, {dtype}: not fused: {'; '.join(slow)}")
            elif not paths:
                notes.append(f"M = {case.tokens}, {dtype}: no fused primitive was called")
    return notes


def _memory_lines(result: LayerResult, memory: dict[str, Any]) -> list[str]:
    def megabytes(size: int | None) -> str:
        return "-" if size is None else f"{size / 1e6:.1f}"

    rows = [
        [variant, megabytes(peak["mlx_bytes"]), megabytes(peak["resident_bytes"])]
        for variant, peak in memory["peaks"].items()
    ]
    table = format_table(["", "MLX MB", "process MB"], rows, right=(1, 2))
    return [
        f"Peak memory of one call beyond the weights, M = {memory['tokens']}, {memory['dtype']}, "
        f"each in a fresh process; the (M, K, D) array alone is "
        f"{memory['combine_bytes'] / 1e6:.1f} MB:",
        *table,
    ]


def result_capsule(
    result: LayerResult, memory: dict[str, Any] | None, command: list[str] | None = None
) -> dict[str, Any]:
    """The run as a capsule (see :mod:`zmlx.capsule`)."""
    bandwidth, settings = result.bandwidth, result.settings
    entries = [
        measurement("layer", variant, "s", series.seconds, {"tokens": case.tokens, "dtype": dtype})
        for case in result.cases
        for variant, times in (("patched", case.patched), ("stock", case.stock))
        for dtype, series in times.items()
    ]
    entries.append(
        measurement(
            "read_bandwidth",
            "machine",
            "s",
            bandwidth.series.seconds,
            {"bytes": bandwidth.size, "threads": bandwidth.threads},
        )
    )
    for variant, peak in (memory or {"peaks": {}})["peaks"].items():
        case = {"tokens": memory["tokens"], "dtype": memory["dtype"]}
        for name in ("mlx_bytes", "resident_bytes"):
            if peak[name]:
                entries.append(
                    measurement(f"peak_{name}", variant, "bytes", [float(peak[name])], case)
                )
    failures = result.failures()
    return make_capsule(
        "moe_layer",
        # A forced SIMD target is a case of its own.
        "-".join(filter(None, [result.shape.name, result.shape.format, settings.cpu_target])),
        parameters={
            "shape": asdict(result.shape),
            **asdict(settings),
            "layers": result.layers,
            "bandwidth_buffer_bytes": bandwidth.size,
        },
        measurements=entries,
        results={
            "read_bytes_per_second": bandwidth.bytes_per_second,
            "cases": [
                _case_results(result, case, dtype)
                for case in result.cases
                for dtype in settings.dtypes
            ],
            "memory": memory,
            "failures": failures,
        },
        passed=not failures,
        command=command,
    )


def _case_results(result: LayerResult, case: Case, dtype: str) -> dict[str, Any]:
    return {
        "tokens": case.tokens,
        "dtype": dtype,
        "seconds": case.patched[dtype].median,
        "spread": case.patched[dtype].spread,
        "distinct_experts": case.distinct,
        "weight_bytes": result.weight_bytes(case, dtype),
        "bytes_per_second": result.rate(case, dtype),
        "share_of_read_bandwidth": result.share(case, dtype),
        "flops_per_second": result.flops(case, dtype),
        "reuse_bytes": case.reuse_bytes,
        "stock_seconds": {name: series.median for name, series in case.stock.items()},
        "stock_over_patched": {name: result.ratio(case, dtype, name) for name in case.stock},
        "relative_rms_error": case.errors[dtype],
        "paths": case.paths[dtype],
    }
