"""The examples in Python run and say what they should; those in C++ are tests of CTest."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


def output_of(example):
    command = [sys.executable, str(EXAMPLES / example)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_kernel_in_a_layer_learns():
    printed = output_of("kernel.py")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert len(losses) == 5 and losses[-1] < losses[0] / 4
    assert "cotangent of a" in printed


def test_a_patched_model_generates():
    printed = output_of("patch_model.py")
    assert "Generation: " in printed
