"""The pyconfig.h for macOS answers what CPython's headers ask, and rightly."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from conftest import ROOT

PYCONFIG = ROOT / "cmake" / "toolchains" / "aarch64-macos" / "pyconfig.h"
# It matters on Windows and Cygwin only.
ELSEWHERE = {"Py_ENABLE_SHARED"}


def defined(path):
    with open(path) as file:
        return {name: value for name, value in sysconfig.parse_config_h(file).items() if value}


def asked():
    """Names in conditions of CPython's public headers."""
    headers = Path(sysconfig.get_path("include"))
    names = set()
    for path in {*headers.glob("*.h"), *headers.glob("cpython/*.h")} - {headers / "py_curses.h"}:
        for condition in re.findall(r"^\s*#\s*(?:el)?if.*(?:\\\n.*)*", path.read_text(), re.M):
            names.update(re.findall(r"\w+", condition))
    return names


def test_every_question_is_answered():
    here = defined(sysconfig.get_config_h_filename())
    assert len(here) > 300
    wanted = {name for name in asked() if name in here} - ELSEWHERE
    assert len(wanted) > 15
    assert wanted <= set(defined(PYCONFIG))


def test_sizes_are_those_of_the_target(tmp_path):
    types = {"LONG_LONG": "long long", "VOID_P": "void*", "SIZE_T": "size_t"}
    types |= {"WCHAR_T": "wchar_t", "PID_T": "pid_t"}
    sizes = [name for name in defined(PYCONFIG) if name.startswith("SIZEOF_")]
    assert len(sizes) > 5
    lines = [f'#include "{PYCONFIG}"', "#include <sys/types.h>", "#include <stddef.h>"]
    for name in sizes:
        of = types.get(name[7:], name[7:].lower())
        lines.append(f'_Static_assert(sizeof({of}) == {name}, "{name}");')
    source = tmp_path / "sizes.c"
    source.write_text("\n".join(lines))
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-macos.14.0", "-c"]
    command += ["-o", tmp_path / "sizes.o", source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
