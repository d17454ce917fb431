"""A validation's report: as text for people, and as a capsule."""

from __future__ import annotations

from typing import Any

from zmlx.capsule import make_capsule, measurement
from zmlx.lm import LoadedModel
from zmlx.table import format_table
from zmlx.validate.agreement import Agreement
from zmlx.validate.rounding import ROUNDING_LIMIT
from zmlx.validate.verdict import FEEDS, FormatReport, Report, worst_rounding

_VARIANTS = {"yardstick": "stock, float32 products"}


def model_line(loaded: LoadedModel) -> str:
    """Which model was loaded, and how fast."""
    architecture = loaded.config.get("model_type", "unknown")
    return f"Model     {loaded.name} ({architecture}), loaded in {loaded.seconds:.1f} s"


def format_text(entry: FormatReport, *, show_text: bool = False) -> str:
    """What was found for one weight format, for people.

    Args:
        entry: the findings.
        show_text: whether to print each prompt with its continuation.
    """
    lines = [
        f"== {entry.name} weights ({entry.note}), {entry.own_dtype}, "
        f"{entry.weight_bytes / 1e6:.1f} MB =="
    ]
    lines += ["  " + line for line in entry.patched]
    if show_text:
        for prompt, text in entry.texts:
            lines += ["", *("  | " + line for line in (prompt + text).splitlines())]
    lines += ["", *_identity_lines(entry)]
    if entry.agreements:
        lines += ["", *_nearness_lines(entry)]
    lines += ["", *_speed_lines(entry)]
    if entry.failures():
        lines += ["", *("  " + failure for failure in entry.failures())]
    return "\n".join(line.rstrip() for line in lines)


def verdict_text(report: Report) -> str:
    """Each format's verdict, and in the last line ``PASS`` or ``FAIL``."""
    verdicts = [f"{entry.name} {'PASS' if entry.passed else 'FAIL'}" for entry in report.formats]
    verdict = "PASS" if report.passed else "FAIL"
    return f"{', '.join(verdicts)} in {report.seconds:.0f} s\n{verdict}"


def _identity_lines(entry: FormatReport) -> list[str]:
    identity = entry.identity
    runs, prompts = len(identity.stock), len(identity.stock[0])
    why = (
        "on CPU identity is judged in float32: MLX's 16-bit CPU kernels sum in 16 bits"
        if entry.device == "cpu"
        else "on GPUs identity is judged in the model's own type"
    )
    asked = sum(len(generation.tokens) for run in identity.stock for generation in run)
    verdict = "identical" if identity.ok else "NOT identical"
    return [
        f"  Greedy tokens, {identity.dtype}: {identity.compared} of {asked} {verdict} "
        f"({prompts} prompts x {len(identity.stock[0][0].tokens)} tokens x {runs} runs)",
        f"  ({why}; generation goes on past end-of-sequence tokens)",
    ]


def _nearness_lines(entry: FormatReport) -> list[str]:
    def row(found: Agreement) -> list[str]:
        agree = 1 - found.disagreements / found.positions
        return [
            _VARIANTS.get(found.variant, found.variant),
            FEEDS[found.feed],
            f"{found.mean_divergence:.2e}",
            f"{100 * agree:.1f} % ({found.disagreements} of {found.positions} differ)",
        ]

    title = f"  Distance from the model's float32 run, in {entry.own_dtype} (teacher-forced):"
    header = ["", "fed", "mean KL, nats", "top-1 agreement"]
    table = format_table(header, [row(found) for found in entry.agreements])
    lines = [title, *("  " + line for line in table)]
    for comparison in entry.comparisons:
        mean, error = comparison.difference
        fed = FEEDS[comparison.feed]
        lines.append(f"  patched minus stock, {fed}: {mean:+.2e} nats (standard error {error:.0e})")
    if entry.roundings:
        worst = worst_rounding(entry.roundings)
        lines.append(
            f"  each of {len(entry.roundings)} patched blocks alone: error at most "
            f"{worst.ratio:.2f} times that of float32 products rounded once "
            f"(sound up to {ROUNDING_LIMIT:g})"
        )
    return lines


def _speed_lines(entry: FormatReport) -> list[str]:
    rows = []
    for speed in entry.speeds:
        for phase, tokens in (("prompt", speed.prompt_tokens), ("decode", speed.decode_tokens)):
            runs = len(getattr(speed, phase)["stock"])
            rows.append([*speed.cells(phase), f"{runs} x {tokens} tokens"])
    header = ["tokens/s", "", "stock", "patched", "ratio", "median of"]
    peak = ", ".join(f"{variant} {size / 1e6:.1f} MB" for variant, size in entry.peak_bytes.items())
    return [
        *("  " + line for line in format_table(header, rows, right=(2, 3, 4))),
        f"  Peak memory (MLX, {entry.identity.dtype}): {peak}",
    ]


def report_capsule(report: Report, command: list[str] | None = None) -> dict[str, Any]:
    """The report as a capsule (see :mod:`zmlx.capsule`)."""
    measurements = [
        measurement(
            phase,
            variant,
            "tokens/s",
            getattr(speed, phase)[variant],
            {"format": entry.name, "dtype": speed.dtype},
        )
        for entry in report.formats
        for speed in entry.speeds
        for phase in ("prompt", "decode")
        for variant in ("stock", "patched")
    ]
    measurements += [
        measurement(
            "peak_memory",
            variant,
            "bytes",
            [float(size)],
            {"format": entry.name, "dtype": entry.identity.dtype},
        )
        for entry in report.formats
        for variant, size in entry.peak_bytes.items()
    ]
    return make_capsule(
        "validate",
        report.model.rsplit("/", 1)[-1],
        parameters={"model": report.model.rsplit("/", 1)[-1], **report.parameters},
        measurements=measurements,
        results={
            "architecture": report.architecture,
            "seconds": report.seconds,
            "formats": [_format_results(entry) for entry in report.formats],
        },
        passed=report.passed,
        command=command,
    )


def _format_results(entry: FormatReport) -> dict[str, Any]:
    divergence = entry.identity.divergence
    return {
        "format": entry.name,
        "note": entry.note,
        "own_dtype": entry.own_dtype,
        "weight_bytes": entry.weight_bytes,
        "patched": entry.patched,
        "passed": entry.passed,
        "failures": entry.failures(),
        "identity": {
            "dtype": entry.identity.dtype,
            "tokens_compared": entry.identity.compared,
            "identical": entry.identity.ok,
            "first_divergence": None if divergence is None else vars(divergence),
        },
        "nearness": [
            {
                "variant": found.variant,
                "feed": found.feed,
                "positions": found.positions,
                "mean_kl_nats": found.mean_divergence,
                "top1_disagreements": found.disagreements,
            }
            for found in entry.agreements
        ],
        "nearness_difference": [
            {
                "feed": comparison.feed,
                "mean_kl_nats": comparison.difference[0],
                "standard_error": comparison.difference[1],
            }
            for comparison in entry.comparisons
        ],
        "rounding": {
            "limit": ROUNDING_LIMIT,
            "blocks": [{**vars(rounding), "ratio": rounding.ratio} for rounding in entry.roundings],
        },
        "ratios": [
            {"dtype": speed.dtype, "prompt": speed.ratio("prompt"), "decode": speed.ratio("decode")}
            for speed in entry.speeds
        ],
        "texts": [{"prompt": prompt, "text": text} for prompt, text in entry.texts],
    }
