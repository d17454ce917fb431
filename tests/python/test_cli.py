"""The console script: commands, exit codes, interrupts, and what goes to which stream."""

import json
import os
import signal
import subprocess
import sys
import time

import mlx.core as mx
import pytest
import zmlx
from test_capsule import check_schema
from zmlx import cli, machine
from zmlx.patch import moe, moe_block
from zmlx.validate import cli as validate_cli
from zmlx.validate import identity

# Little enough for a test: stock takes 50 ms a token in bfloat16 on CPU.
SHORT = ["--prompt", "def f(x):", "--max-tokens", "6", "--near-tokens", "4", "--runs", "1"]
SHORT += ["--own-seconds", "0", "--no-progress"]


def run_validate(*arguments):
    return validate_cli.main([*SHORT, *arguments])


def test_pass_exits_with_0_and_ends_with_pass(capsys, tmp_path):
    assert run_validate("--capsule", str(tmp_path)) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "PASS"
    assert out[0].startswith("Versions  ZMLX")
    assert any(line.startswith("Machine ") for line in out)
    assert any("on CPU identity is judged in float32" in line for line in out)
    (path,) = tmp_path.iterdir()
    capsule = json.loads(path.read_text())
    check_schema(capsule)
    assert capsule["passed"] is True
    assert capsule["parameters"]["max_tokens"] == 6


def test_fail_exits_with_1_and_names_the_first_divergence(capsys, monkeypatch):
    sound = moe._gather_qmm_combine
    # A block made in one call would not come by here.
    monkeypatch.setattr(moe_block, "_make", lambda block, known: None)
    monkeypatch.setattr(
        moe,
        "_gather_qmm_combine",
        lambda x, *arguments, **keywords: -sound(x, *arguments, **keywords),
    )
    assert run_validate() == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "FAIL"
    assert "first divergence: prompt 1, token" in out


def test_json_is_a_capsule_and_nothing_else(capsys):
    assert run_validate("--json", "--dtype", "float32") == 0
    capsule = json.loads(capsys.readouterr().out)
    check_schema(capsule)
    assert capsule["kind"] == "validate"
    assert capsule["results"]["formats"][0]["identity"]["identical"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        ["./no/such/model"],
        ["--prompts", "no-such-file"],
        ["--bits", "7", "--dtype", "float32"],
    ],
)
def test_what_cannot_be_read_is_one_sentence_and_exit_2(capsys, arguments):
    assert run_validate(*arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("zmlx validate: ")
    assert "PASS" not in captured.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-tokens", "1"],
        ["--max-tokens", "many"],
        ["--runs", "0"],
        ["--bits", "4,x"],
        ["--own-seconds", "nan"],
        ["--patterns", "nothing"],
        ["--dtype", "float64"],
    ],
)
def test_unusable_options_are_refused_by_the_parser(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        validate_cli.main(arguments)
    assert exit_.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_an_interrupt_exits_with_130_and_writes_nothing(capsys, monkeypatch, tmp_path):
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sound(*arguments)

    sound = identity.greedy
    monkeypatch.setattr(identity, "greedy", interrupted)
    assert run_validate("--capsule", str(tmp_path)) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_a_running_validation(tmp_path):
    command = [sys.executable, "-m", "zmlx.validate", "--runs", "1000", "--no-progress"]
    process = subprocess.Popen(
        [*command, "--capsule", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:  # the model is loaded: generation begins
            if line.startswith("Model"):
                break
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.strip() == "zmlx validate: interrupted; no capsule was written."
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_capsules_is_checked_before_the_work(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert run_validate("--capsule", str(tmp_path / "file")) == 2
    captured = capsys.readouterr()
    assert "Cannot write capsules" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["validate"],
        ["bench"],
        ["bench", "moe-layer"],
        ["bench", "add-rms-norm"],
        ["bench", "decode"],
        ["evidence"],
        ["info"],
    ],
)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*command, "--help"])
    assert exit_.value.code == 0
    assert "usage: zmlx" in capsys.readouterr().out


def test_without_a_command_the_help_is_shown(capsys):
    assert cli.main([]) == 0
    assert "validate" in capsys.readouterr().out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"zmlx {zmlx.__version__}\n"


def test_info_describes_the_machine(capsys, monkeypatch):
    monkeypatch.setattr(machine, "bandwidth_buffer_bytes", lambda: 8 << 20)
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mlx"]["version"] == mx.__version__
    assert found["machine"]["cores"] >= 1
    assert found["read_bytes_per_second"] > 0
    assert cli.main(["info"]) == 0
    assert "Bandwidth read" in capsys.readouterr().out


def test_cmake_dir_is_the_folder_with_the_package(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "lib" / "cmake" / "zmlx"
    folder.mkdir(parents=True)
    (folder / "zmlxConfig.cmake").write_text("")
    monkeypatch.setattr(zmlx, "__path__", [*zmlx.__path__, str(tmp_path)])
    assert cli.main(["--cmake-dir"]) == 0
    assert (tmp_path / capsys.readouterr().out.strip() / "zmlxConfig.cmake").is_file()
    monkeypatch.setattr(zmlx, "__path__", [str(tmp_path / "lib" / "nothing")])
    assert cli.main(["--cmake-dir"]) == 1
    assert "zmlxConfig.cmake" in capsys.readouterr().err


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "zmlx", "--version"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, f"zmlx {zmlx.__version__}\n")


def test_the_demo_shows_texts_and_tables(capsys, monkeypatch, tmp_path):
    from zmlx import demo

    smaller = {
        "_PROMPTS": ["def fibonacci(n):\n"],
        "_MAX_TOKENS": 30,
        "_NEAR_TOKENS": 2,
        "_OWN_DECODE_TOKENS": 2,
        "_BITS": (4,),
    }
    for name, value in smaller.items():
        monkeypatch.setattr(demo, name, value)
    assert cli.main(["demo", "--no-progress", "--capsule", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| def fibonacci(n):" in out
    assert "30 of 30 identical" in out
    assert out.splitlines()[-1] == "PASS"
    assert len(list(tmp_path.iterdir())) == 1
