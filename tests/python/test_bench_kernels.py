"""The benchmark of kernels measures what it says, on small arrays."""

import json

import mlx.core as mx
from test_capsule import check_schema
from zmlx.bench import kernels, kernels_gpu


def test_benchmark_writes_a_capsule(tmp_path, capsys):
    arguments = ["--megabytes", "1", "--repeats", "2", "--no-progress", "--capsule", str(tmp_path)]
    with mx.stream(mx.cpu):
        assert kernels.main(arguments) == 0
    assert "first call" in capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    capsule = json.loads(path.read_text())
    check_schema(capsule)
    cases = capsule["results"]["cases"]
    assert len(cases) == len(kernels.all_cases())
    assert sum(case["operations"] >= 10 for case in cases) == 5
    assert all(case["error"] < 1e-5 and case["seconds"] > 0 for case in cases)
    assert capsule["results"]["first_call_seconds"] < 1e-3


def test_gpu_benchmark_runs_on_any_device(tmp_path, capsys):
    arguments = ["--megabytes", "1", "--rows", "16", "--width", "256", "--repeats", "2"]
    arguments += ["--chain-megabytes", "4", "--no-progress", "--capsule", str(tmp_path)]
    assert kernels_gpu.main(arguments) == 0
    assert "of copy" in capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    capsule = json.loads(path.read_text())
    check_schema(capsule)
    cases = capsule["results"]["cases"]
    assert {case["dtype"] for case in cases} == {"float32", "bfloat16"}
    assert {"softmax", "rms_norm", "mish"} <= {case["formula"] for case in cases}
    assert all(case["seconds"] > 0 and case["bytes_per_second"] > 0 for case in cases)
