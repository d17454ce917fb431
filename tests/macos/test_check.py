"""The check of the macOS wheel finds nothing wrong with it, and finds what is broken on purpose."""

import shutil
import struct
import subprocess
import zipfile

import check
import lief
import pytest
from mach_o import read


def changed(wheel, folder, name, change):
    """A copy of the wheel whose file ``name`` went through ``change``; ``None`` leaves it out."""
    copy = folder / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(copy, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith(name):
                content = change(content)
            if content is not None:
                target.writestr(entry, content)
    return copy


def failures(wheel, deps, folder):
    return check.check_wheel(wheel, deps, folder / "site")[0].failures


def replaced(before, after, count=-1):
    def change(content):
        assert before in content and len(before) == len(after)
        return content.replace(before, after, count)

    return change


def test_the_wheel_is_sound(wheel, deps, tmp_path):
    checks, libraries = check.check_wheel(wheel, deps, tmp_path / "site")
    assert checks.failures == []
    assert {library.path.name.split(".")[0] for library in libraries} == {"_ext", "libzmlx"}
    for library in libraries:
        assert sum(source == "@rpath/libmlx.dylib" for source in library.imports.values()) > 20


def test_a_symbol_that_mlx_lacks(wheel, deps, tmp_path):
    broken = changed(wheel, tmp_path, "libzmlx.dylib", replaced(b"gather_qmm", b"gather_qmn"))
    found = failures(broken, deps, tmp_path)
    assert any("@rpath/libmlx.dylib has no __ZN3mlx4core10gather_qmn" in each for each in found)


def test_a_symbol_that_python_lacks(wheel, deps, tmp_path):
    broken = changed(wheel, tmp_path, "-darwin.so", replaced(b"_PyDict_New\0", b"_PyDict_Old\0"))
    assert any("_PyDict_Old is not in CPython" in each for each in failures(broken, deps, tmp_path))


def test_a_changed_byte_voids_the_signature(wheel, deps, tmp_path):
    def flip(content):
        return content[:20000] + bytes([content[20000] ^ 1]) + content[20001:]

    broken = changed(wheel, tmp_path, "libzmlx.dylib", flip)
    assert set(failures(broken, deps, tmp_path)) == {"libzmlx.dylib has no signature that fits it"}


def test_a_newer_macos(wheel, deps, tmp_path):
    # Platform macOS, then the version as xxxx.yy.zz.
    before, after = struct.pack("<2I", 1, 14 << 16), struct.pack("<2I", 1, 15 << 16)
    broken = changed(wheel, tmp_path, "libzmlx.dylib", replaced(before, after, 1))
    assert "libzmlx.dylib is for macOS 15.0 and newer" in failures(broken, deps, tmp_path)


def test_a_path_of_the_building_machine(wheel, deps, tmp_path):
    before = b"@loader_path/../../mlx/lib"
    broken = changed(
        wheel, tmp_path, "libzmlx.dylib", replaced(before, b"/builder".ljust(26, b"/"))
    )
    found = failures(broken, deps, tmp_path)
    assert any("looks for libraries in /builder" in each for each in found)
    assert "libzmlx.dylib loads @rpath/libmlx.dylib, which is not there" in found


def test_a_missing_library(wheel, deps, tmp_path):
    broken = changed(wheel, tmp_path, "libzmlx.dylib", lambda _: None)
    found = failures(broken, deps, tmp_path)
    assert any("loads @rpath/libzmlx.dylib, which is not there" in each for each in found)
    assert any("@rpath/libzmlx.dylib has no __ZN4zmlx" in each for each in found)


def test_another_abi_of_nanobind(wheel, deps, tmp_path):
    broken = changed(wheel, tmp_path, "-darwin.so", replaced(b"_abi1_a1_v22", b"_abi1_a1_v21"))
    assert any(each.startswith("nanobind's ABI") for each in failures(broken, deps, tmp_path))


def test_pip_refuses_a_wheel_for_a_newer_macos(wheel, deps, tmp_path):
    newer = tmp_path / wheel.name.replace("macosx_14_0", "macosx_15_0")
    shutil.copy(wheel, newer)
    with pytest.raises(subprocess.CalledProcessError):
        failures(newer, deps, tmp_path)


def test_a_library_for_linux_is_none_for_macos(tmp_path):
    with pytest.raises(ValueError, match="not a Mach-O file"):
        read(lief.__file__)
