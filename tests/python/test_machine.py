"""What is said of the machine: caches from the system's files, sizes, one line for people."""

import os

import pytest
from zmlx import machine


def add_cache(root, cpu, index, level, kind, size, sharers):
    folder = root / f"cpu{cpu}" / "cache" / f"index{index}"
    folder.mkdir(parents=True)
    for name, text in (
        ("level", level),
        ("type", kind),
        ("size", size),
        ("shared_cpu_list", sharers),
    ):
        (folder / name).write_text(f"{text}\n")


@pytest.fixture
def four_cores(tmp_path, monkeypatch):
    """Two pairs of cores: an L3 of 16 MiB each pair, private L1 and L2."""
    for cpu in range(4):
        add_cache(tmp_path, cpu, 0, 1, "Data", "32K", cpu)
        add_cache(tmp_path, cpu, 1, 1, "Instruction", "32K", cpu)
        add_cache(tmp_path, cpu, 2, 2, "Unified", "512K", cpu)
        add_cache(tmp_path, cpu, 3, 3, "Unified", "16M", "0-1" if cpu < 2 else "2-3")
    monkeypatch.setattr(machine, "_CPU_FOLDER", tmp_path)
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")


def test_caches_are_counted_once_each(four_cores):
    assert machine.cpu_caches() == [
        {"level": 1, "type": "Data", "bytes": 32 << 10, "instances": 4},
        {"level": 2, "type": "Unified", "bytes": 512 << 10, "instances": 4},
        {"level": 3, "type": "Unified", "bytes": 16 << 20, "instances": 2},
    ]


def test_the_last_level_is_all_its_instances_together(four_cores):
    assert machine.last_level_cache_bytes() == 32 << 20
    assert machine.bandwidth_buffer_bytes() == 256 << 20


def test_bandwidth_is_measured_on_more_than_the_caches_hold(monkeypatch):
    monkeypatch.setattr(machine, "last_level_cache_bytes", lambda: 200 << 20)
    assert machine.bandwidth_buffer_bytes() == 800 << 20


def test_what_the_system_does_not_tell_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPU_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    assert machine.cpu_caches() == []
    assert machine.last_level_cache_bytes() is None


def test_this_machine():
    found = machine.describe_machine()
    assert found["cores"] == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    assert found["threads"] >= 1
    assert found["simd_target"]
    line = machine.machine_line(found)
    assert found["cpu"] in line
    assert found["simd_target"] in line


@pytest.mark.parametrize("measure", [machine.read_bandwidth, machine.copy_bandwidth])
def test_bandwidth_is_that_of_memory(measure):
    # Between a slow disk's and ten times the fastest server's.
    assert 1e8 < measure(repeats=3, size=32 << 20) < 1e13
