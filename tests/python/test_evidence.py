"""``zmlx evidence``: its steps, what they find, and what an interrupt leaves."""

import json
import os
import signal
import subprocess
import sys
import time

import mlx.core as mx
import numpy as np
import pytest
from test_capsule import check_schema
from zmlx import cli, fast
from zmlx.bench.layer import build_layer, in_type
from zmlx.bench.shapes import LayerShape
from zmlx.evidence import cli as evidence
from zmlx.evidence import contract, identity, steps, unit_tests
from zmlx.evidence.steps import EXIT_SKIPPED, STEPS, Options, Step

TINY = identity.Sweep(
    (("affine", 4, 64),), ("float32", "bfloat16"), tokens=(1, 5), sizes=((128, 64),), routed=(16,)
)
ON_GPU = identity.on_gpu()
cpu_only = pytest.mark.skipif(ON_GPU, reason="about what is checked on CPUs")


def read(folder, kind):
    (path,) = folder.glob(f"{kind}-*.json")
    capsule = json.loads(path.read_text())
    check_schema(capsule)
    return capsule


class Script(Step):
    """A step that runs a piece of Python."""

    def command(self, options):
        return [sys.executable, "-c", self.arguments(options)]


def script(name, code):
    return Script(name, name, lambda options: code.replace("CAPSULES", repr(options.capsules)))


WRITE = "open(CAPSULES + '/{}.json', 'w').write('{{}}')"


# --- The steps ---------------------------------------------------------------------------------


def test_a_small_run_of_everything_leaves_a_capsule_of_each_step(tmp_path, monkeypatch):
    """In steps' own processes, as users run them; sizes and files alone are smaller."""
    smaller = {
        "tests": (
            "from zmlx.evidence import unit_tests; import sys;"
            "unit_tests._QUICK = ('test_machine.py',);"
            "sys.exit(unit_tests.main(['--quick', '--capsule', CAPSULES]))"
        ),
        "identity": (
            "from zmlx.evidence import identity; import sys;"
            "identity.QUICK = identity.Sweep((('affine', 4, 64),), ('float32',), (1, 5),"
            "((128, 64),), (16,));"
            "sys.exit(identity.main(['--quick', '--no-progress', '--capsule', CAPSULES]))"
        ),
        "validate": (
            "from zmlx.validate.cli import main; import sys;"
            "sys.exit(main(['--max-tokens', '6', '--near-tokens', '2', '--runs', '1', '--prompt',"
            "'def f(x):', '--dtype', 'float32', '--no-progress', '--capsule', CAPSULES]))"
        ),
        "layer": (
            "from zmlx.bench import moe_layer, moe_layer_cli; import sys;"
            "moe_layer.last_level_cache_bytes = lambda: 64 << 10;"
            "moe_layer.bandwidth_buffer_bytes = lambda: 8 << 20;"
            "sys.exit(moe_layer_cli.main(['--width', '256', '--expert-width', '128', '--experts',"
            "'16', '--top-k', '4', '--seq-lens', '1', '--repeats', '2', '--no-memory',"
            "'--no-progress', '--capsule', CAPSULES]))"
        ),
    }
    monkeypatch.setattr(
        evidence, "STEPS", {name: script(name, code) for name, code in smaller.items()}
    )
    assert cli.main(["evidence", "--quick", "--no-progress", "--capsule", str(tmp_path)]) == 0
    kinds = {"tests": "unit_tests", "identity": "identity", "validate": "validate"}
    kinds["layer"] = "moe_layer"
    for kind in kinds.values():
        assert read(tmp_path, kind)["passed"] is True
    summary = read(tmp_path, "evidence")
    assert summary["passed"] is True
    for entry in summary["results"]["steps"]:
        assert entry["result"] == "passed"
        (file,) = entry["capsules"]
        assert file.startswith(kinds[entry["step"]] + "-")


@pytest.mark.parametrize("quick", [False, True])
def test_the_steps_understand_their_arguments(quick):
    """No step's program refuses what it is given, and the full run is the one that is promised."""
    from zmlx.bench import moe_layer_cli
    from zmlx.validate import cli as validate_cli

    options = Options("somewhere", quick=quick, progress=False, model="a-model")
    words = {name: step.command(options)[3:] for name, step in STEPS.items()}
    modules = {name: step.command(options)[2] for name, step in STEPS.items()}
    parsed = cli._parser().parse_args(words["validate"])
    assert (modules["validate"], parsed.run) == ("zmlx", validate_cli.run)
    assert (parsed.model, parsed.capsule) == ("a-model", "somewhere")
    assert (parsed.max_tokens, parsed.runs) == ((50, 1) if quick else (500, 5))
    parsed = cli._parser().parse_args(words["layer"])
    assert parsed.run_benchmark is moe_layer_cli.run
    assert parsed.seq_lens == [1, 4, 16, 64]
    for name, module in (("tests", unit_tests), ("identity", identity)):
        assert modules[name] == module.__name__
        with pytest.raises(SystemExit) as exit_:
            module.main([*words[name], "--help"])
        assert exit_.value.code == 0


def test_a_failure_does_not_stop_the_rest(capsys, monkeypatch, tmp_path):
    steps = {
        "tests": script("tests", "import os; os.abort()"),
        "identity": script("identity", "import sys; sys.exit(1)"),
        "validate": script("validate", f"import sys; sys.exit({EXIT_SKIPPED})"),
        "layer": script("layer", WRITE.format("layer")),
    }
    monkeypatch.setattr(evidence, "STEPS", steps)
    assert cli.main(["evidence", "--capsule", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAIL"
    found = {entry["step"]: entry for entry in read(tmp_path, "evidence")["results"]["steps"]}
    assert [entry["result"] for entry in found.values()] == [
        "FAILED",
        "FAILED",
        "skipped",
        "passed",
    ]
    assert found["layer"]["capsules"] == ["layer.json"]


def test_what_was_left_out_on_purpose_has_not_failed(monkeypatch, tmp_path):
    steps = {**STEPS, "layer": script("layer", "pass")}
    monkeypatch.setattr(evidence, "STEPS", steps)
    assert cli.main(["evidence", "--steps", "layer", "--capsule", str(tmp_path)]) == 0
    assert cli.main(["evidence", "--steps", "layer", "--capsule", "/dev/null/folder"]) == 2


def test_an_interrupt_loses_only_the_step_that_it_stops(tmp_path):
    code = (
        "import sys; sys.path.insert(0, TESTS); import test_evidence as t;"
        "from zmlx import cli; from zmlx.evidence import cli as evidence;"
        "evidence.STEPS.update(tests=t.script('tests', t.WRITE.format('tests')),"
        "identity=t.script('identity', 'import time; print(\"begun\", flush=True); time.sleep(9)'),"
        "validate=t.script('validate', t.WRITE.format('validate')));"
        "sys.exit(cli.main(['evidence', '--steps', 'tests,identity,validate', '--capsule', TMP]))"
    )
    code = code.replace("TESTS", repr(os.path.dirname(__file__))).replace(
        "TMP", repr(str(tmp_path))
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("begun"):
                break
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in out and "PASS" not in out
    assert (tmp_path / "tests.json").exists() and not (tmp_path / "validate.json").exists()
    (tmp_path / "tests.json").unlink()
    steps = read(tmp_path, "evidence")["results"]["steps"]
    assert [entry["result"] for entry in steps] == ["passed", "interrupted", "not run"]


# --- Unit tests --------------------------------------------------------------------------------


def test_failures_of_unit_tests_are_counted_and_named(tmp_path):
    (tmp_path / "test_patch_nothing.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_broken(absent): pass\n"
        "@pytest.mark.skip\ndef test_skipped(): pass\n"
    )
    tally = unit_tests.run_pytest(tmp_path, quick=False)
    assert (tally.passed, tally.skipped, tally.sound) == (1, 1, False)
    assert [name.rsplit(".", 1)[1] for name in tally.failed] == ["test_bad", "test_broken"]
    (tmp_path / "test_patch_nothing.py").write_text("import os\nos.abort()\n")
    tally = unit_tests.run_pytest(tmp_path, quick=False)
    assert not tally.sound and tally.failed[0].startswith("pytest ended with exit code")


def test_without_sources_there_are_no_tests(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(steps, "__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    monkeypatch.chdir(tmp_path)
    assert unit_tests.main(["--quick", "--capsule", str(tmp_path)]) == EXIT_SKIPPED
    assert "sources" in capsys.readouterr().out


# --- Identity ----------------------------------------------------------------------------------


def test_the_sweep_finds_nothing_wrong():
    findings = list(identity.compare(TINY))
    assert identity.failures(findings) == []
    assert len(findings) >= identity.count(TINY)
    fused = {each.op for each in findings if each.path != "fallback"}
    assert "add_rms_norm" in fused and len(fused) >= 2


def test_every_format_is_compared():
    formats = {(mode, bits) for mode, bits, _ in identity.FULL.formats}
    assert formats == {("affine", bits) for bits in (1, 2, 3, 4, 5, 6, 8)} | {
        ("mxfp4", 4), ("mxfp8", 8), ("nvfp4", 4)
    }  # fmt: skip
    assert identity.CPU.formats == identity.FULL.formats
    assert {1, 4, 16, 32} <= set(identity.FULL.tokens)


def off_by_a_bit(array):
    unsigned = {2: mx.uint16, 4: mx.uint32}[array.dtype.size]
    flat = array.flatten().view(unsigned)
    flat = flat.at[0].add(mx.array(1, unsigned))
    return flat.view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_one_bit_is_a_difference(dtype):
    array = mx.random.normal((3, 5)).astype(dtype)
    assert identity._difference(array, array + 0) == ""
    assert identity._difference(off_by_a_bit(array), array) == "1 of 15 values differ"
    zero = mx.zeros((2,), dtype)
    assert identity._difference(-zero, zero) == "2 of 2 values differ"
    assert "not mlx" in identity._difference(array.astype(mx.float16), array)


def test_bits_are_compared_where_there_is_a_gpu(monkeypatch):
    """The GPU's code path; on a CPU fused results are not MLX's bits, and it must show."""
    monkeypatch.setattr(identity, "on_gpu", lambda: True)
    findings = [each for each in identity.compare(TINY) if each.op == "experts"]
    assert len(findings) == 4
    if not ON_GPU:
        assert {each.path for each in findings} == {"cpu"}
        assert any("values differ" in each for each in identity.failures(findings))


def test_layers_that_fall_through_are_not_evidence(monkeypatch):
    monkeypatch.setattr(identity, "on_gpu", lambda: True)
    findings = [identity.Finding("experts", "a case", "fallback", "no kernel")]
    assert identity.failures(findings) == ["experts: no case took a fused path (no kernel)"]


@cpu_only
@pytest.mark.parametrize("op", ["gather_qmm_swiglu", "gather_qmm_combine", "add_rms_norm"])
def test_results_outside_the_contract_are_found(monkeypatch, op):
    sound = getattr(fast, op)

    def slightly_wrong(*arguments, **keywords):
        result = sound(*arguments, **keywords)
        if op == "add_rms_norm":
            return result[0] * 1.02, result[1]
        return result * 1.02

    monkeypatch.setattr(identity.fast, op, slightly_wrong)
    found = identity.failures(list(identity.compare(TINY)))
    assert found and all(each.startswith(op) for each in found)


@cpu_only
def test_another_choice_of_experts_is_found(monkeypatch):
    sound = fast.moe_route
    monkeypatch.setattr(
        identity.fast, "moe_route", lambda *a, **k: (sound(*a, **k)[0] ^ 1, sound(*a, **k)[1])
    )
    found = identity.failures(list(identity.compare(TINY)))
    assert found and all(each.startswith("moe_route") for each in found)


# --- The contract ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, bits, group", identity.FULL.formats)
def test_exact_weights_are_those_that_mlx_dequantizes(mode, bits, group):
    layer = build_layer(LayerShape("tiny", 256, 128, 4, 2, mode, bits, group), mx.float32)
    linear = in_type(layer, mx.float32).switch_mlp.up_proj
    want = np.array(
        mx.dequantize(
            linear.weight, linear.scales, linear.biases, group, bits, mode, dtype=mx.float32
        )
    )
    got = contract.exact_weights(linear)
    assert got.dtype == np.float64 and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert np.abs(want).max() > 0.05


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_the_contract_grants_a_rounding_and_no_more(dtype):
    exact = np.random.default_rng(0).standard_normal((4, 64))
    reference = mx.array(exact.astype(np.float32))
    rounded = reference.astype(dtype)
    assert contract.broken(rounded, reference, exact, np.abs(exact)) == ""
    step = {mx.float32: 2.0**-20, mx.float16: 2.0**-9, mx.bfloat16: 2.0**-6}[dtype]
    worse = mx.array((exact * (1 + step)).astype(np.float32)).astype(dtype)
    assert "root mean square" in contract.broken(worse, reference, exact, np.abs(exact))
    one = np.array(exact)
    one[0, 0] += 0.1
    one = mx.array(one.astype(np.float32)).astype(dtype)
    assert contract.broken(one, reference, exact, np.abs(exact)) != ""
    assert contract.broken(rounded * float("nan"), reference, exact, np.abs(exact)) == "not finite"
