"""The benchmarks of ``add_rms_norm`` and of decoding, and the README's tables."""

import json
from pathlib import Path

import pytest
from test_capsule import check_schema
from zmlx import fast
from zmlx.bench import add_rms_norm, cuda_chain, decode, decode_stored, report
from zmlx.capsule import make_capsule, measurement, write_capsule

REPOSITORY = Path(__file__).resolve().parents[2]
NORM = add_rms_norm.Settings(megabytes=1, width=512, repeats=2)


def test_add_rms_norm_counts_two_reads_and_two_writes():
    results = add_rms_norm.bench_add_rms_norm(NORM)
    assert [result.dtype for result in results] == ["bfloat16", "float32"]
    for result in results:
        assert result.moved_bytes == 4 << 20
        assert result.rate == result.moved_bytes / result.fused.median
        assert len(result.fused.seconds) == 3 * NORM.repeats
        assert result.failure is None
    assert "2 reads and 2 writes" in add_rms_norm.results_text(results, NORM)
    check_schema(add_rms_norm.results_capsule(results, NORM))


def test_a_wrong_norm_fails(monkeypatch, capsys):
    sound = fast.add_rms_norm

    def wrong(*arguments):
        normed, total = sound(*arguments)
        return normed, total + 0.2

    monkeypatch.setattr(fast, "add_rms_norm", wrong)
    arguments = ["--megabytes", "1", "--repeats", "1", "--dtype", "float32", "--no-progress"]
    assert add_rms_norm.main(arguments) == 1
    assert "FAIL add_rms_norm float32" in capsys.readouterr().err


def test_decode_measures_both_types_and_memory(capsys, tmp_path):
    arguments = ["--max-tokens", "4", "--runs", "2", "--dtype", "float32", "--prompt", "def f(x):"]
    assert decode.main([*arguments, "--no-progress", "--capsule", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Peak memory of a process, float32: stock" in out
    (path,) = tmp_path.iterdir()
    capsule = json.loads(path.read_text())
    check_schema(capsule)
    (case,) = capsule["results"]["cases"]
    assert case["same_tokens"] is True
    assert case["decode_ratio"] == pytest.approx(case["decode_patched"] / case["decode_stock"])
    # Two processes, each with Python, MLX and the model.
    peaks = capsule["results"]["memory"]["float32"]
    assert peaks["stock"]["resident_bytes"] > 50e6
    assert peaks["stock"]["resident_bytes"] != peaks["patched"]["resident_bytes"]


def test_more_memory_than_stock_fails():
    def result(patched):
        peaks = {"stock": {"resident_bytes": 1000}, "patched": {"resident_bytes": patched}}
        return decode_stored.DecodeResult("model", "4-bit", [], {}, {"float32": peaks})

    assert result(1050).failures() == []
    assert "1.051 times" in result(1051).failures()[0]


def example_capsules():
    """A made-up capsule of every kind, with numbers that are easy to find again."""
    shape = {"name": "lfm2-8b-a1b", "mode": "affine", "bits": 4}
    layer = {
        "tokens": 1, "dtype": "bfloat16", "seconds": 0.001, "bytes_per_second": 25e9,
        "share_of_read_bandwidth": 0.853, "flops_per_second": 88e9,
        "stock_over_patched": {"bfloat16": 312.4, "float32": 31.26},
    }  # fmt: skip
    norm = {
        "dtype": "float32", "seconds": 0.01, "bytes_per_second": 27e9,
        "share_of_copy_bandwidth": 0.9, "stock_over_fused": 2.5,
    }  # fmt: skip
    kernel = {
        "formula": "geglu", "length": 0, "seconds": 0.012, "bytes_per_second": 26e9,
        "copy_bytes_per_second": 28e9,
        "share_of_copy_bandwidth": 0.92, "share_of_floor": 0.97, "stock_over_kernel": 8.5,
    }  # fmt: skip
    speed = {
        "dtype": "float32", "prompt_stock": 150.0, "prompt_patched": 900.0, "prompt_ratio": 6.0,
        "decode_stock": 110.0, "decode_patched": 330.0, "decode_ratio": 3.0,
    }  # fmt: skip
    peaks = {"stock": {"resident_bytes": 1000}, "patched": {"resident_bytes": 1012}}
    entry = {
        "format": "8-bit", "own_dtype": "bfloat16",
        "identity": {"dtype": "float32", "identical": True, "tokens_compared": 500},
        "nearness": [
            {"variant": "patched", "feed": "steps", "positions": 181, "mean_kl_nats": 0.0011,
             "top1_disagreements": 2}
        ],
    }  # fmt: skip
    runs = [measurement("any", "stock", "s", [1.0])]
    runs += [
        measurement(what, variant, "s", [24e-6 * micro], {"tokens": 4})
        for what, variant, micro in (
            ("steady", "stock", 120), ("steady", "patched", 40), ("alone", "stock", 170),
            ("alone", "patched", 90),
        )
    ]  # fmt: skip
    for kind, parameters, results in (
        ("moe_layer", {"shape": shape}, {"cases": [layer]}),
        ("add_rms_norm", {"megabytes": 64}, {"cases": [norm]}),
        ("kernels", {"megabytes": 64}, {"cases": [kernel]}),
        ("decode", {"model": "tiny"}, {"format": "4-bit", "cases": [speed],
                                       "memory": {"float32": peaks}}),
        ("validate", {"model": "tiny"}, {"formats": [entry]}),
        ("cuda_layer", {"layers": 24, "type": "bfloat16"}, {"4": {"equal": True}}),
        ("cuda_chain", {"layers": 24, "type": "bfloat16"},
         {"4": {"equal": True, "host_seconds_per_call": 5.5e-6}}),
    ):  # fmt: skip
        yield make_capsule(
            kind, "example", parameters=parameters, measurements=runs, results=results
        )


@pytest.fixture
def capsule_folder(tmp_path):
    folder = tmp_path / "capsules"
    for capsule in example_capsules():
        check_schema(capsule)
        write_capsule(capsule, folder)
    return folder


def test_every_number_of_the_tables_comes_from_a_capsule(capsule_folder):
    text = report.capsule_tables(capsule_folder)
    for found in ("| 1.00 | 25.0 | 85 % | 88 | 312x | 31x |", "| 10.00 | 27.0 | 90 % | 2.5x |",
                  "| geglu | 64 MiB | 12.00 | 26.0 | 28 | 92 % | 97 % | 8.5x |",
                  "| 110.0 | 330.0 | 3.0x | +1.2 % |", "500 identical (float32)",
                  "| 4 | 120 | 40 | 3.0x | 170 | 90 | yes |",
                  "| 4 | 120 | 40 | 3.0x | 5.5 | yes |",
                  "patched, one token at a time | 1.10e-03 | 2 of 181 |"):  # fmt: skip
        assert found in text
    for path in capsule_folder.iterdir():
        assert f"`{path.name}`" in text


def test_the_newest_capsule_of_a_case_counts(capsule_folder):
    capsule = next(example_capsules())
    capsule["created"] = "2001-01-01T00:00:00Z"
    capsule["results"]["cases"][0]["seconds"] = 0.777
    write_capsule(capsule, capsule_folder)
    assert "777" not in report.capsule_tables(capsule_folder)
    capsule["created"] = "2999-01-01T00:00:00Z"
    write_capsule(capsule, capsule_folder)
    assert "777.00" in report.capsule_tables(capsule_folder)


def test_without_capsules_the_block_says_so(tmp_path):
    assert report.capsule_tables(tmp_path) == "No measurements are stored yet."


def test_check_finds_what_write_mends(capsule_folder, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\n99x\n{report.END}\nafter\n")
    options = ["--capsules", str(capsule_folder)]
    assert report.main([*options, "--check", str(readme)]) == 1
    assert "-99x" in capsys.readouterr().out
    assert report.main([*options, "--write", str(readme)]) == 0
    assert report.main([*options, "--check", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "312x" in text
    readme.write_text(text.replace("312x", "313x"))
    assert report.main([*options, "--check", str(readme)]) == 1


@pytest.mark.parametrize(
    "text", ["", report.BEGIN, f"{report.END}{report.BEGIN}", f"{report.BEGIN * 2}{report.END}"]
)
def test_a_file_without_one_block_is_refused(tmp_path, capsys, text):
    (tmp_path / "README.md").write_text(text)
    assert report.main(["--capsules", str(tmp_path), "--check", str(tmp_path / "README.md")]) == 2
    assert "must hold one" in capsys.readouterr().err


def test_the_readme_shows_the_stored_capsules():
    capsules = REPOSITORY / "benchmarks" / "repro_capsules"
    assert report.main(["--check", str(REPOSITORY / "README.md")], capsules) == 0


@pytest.mark.parametrize("equal, spread", [(True, 1), (False, 1), (True, 1e-20)])
def test_what_a_chain_program_prints_becomes_a_capsule(tmp_path, capsys, equal, spread):
    holds = equal and spread == 1
    program = tmp_path / "cuda_chain"
    found = {
        "equal": equal,
        "spread": spread,
        "calls": 2,
        "layers": 24,
        "stock": [24e-4] * 3,
        "fused": [24e-5] * 3,
    }
    found |= {"build": [24e-6] * 3, "submit": [24e-5] * 3}
    program.write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
    program.chmod(0o755)
    options = ["--shapes", "lfm2-8b-a1b", "--tokens", "1", "--capsule", str(tmp_path / "capsules")]
    assert cuda_chain.main([str(program), *options]) == (0 if holds else 1)
    assert "100.0   10.0  10.00  5.50" in " ".join(capsys.readouterr().out.split("\n"))
    (path,) = (tmp_path / "capsules").iterdir()
    capsule = json.loads(path.read_text())
    check_schema(capsule)
    assert capsule["passed"] is holds
    assert cuda_chain.main([str(tmp_path / "missing"), *options]) == 2
