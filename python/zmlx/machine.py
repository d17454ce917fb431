"""What this machine is: processor, instruction set, caches, memory, GPU, measured bandwidth."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from pathlib import Path
from typing import Any

# The flags that decide which kernel runs, by the names Linux gives them.
_ISA_FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm",
    "bf16", "fphp", "asimdhp", "sve", "sve2",
)  # fmt: skip
_CPU_FOLDER = Path("/sys/devices/system/cpu")


def describe_machine() -> dict[str, Any]:
    """The machine as a capsule stores it (see ``machine`` in ``capsule_schema.json``).

    Sizes are in bytes. A figure that the system does not tell is ``None``, never a guess.
    """
    caches = cpu_caches()
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "isa": _isa_flags(),
        "simd_target": _simd_target(),
        "threads": _threads(),
        "caches": caches,
        "last_level_cache_bytes": last_level_cache_bytes(caches),
        "memory_bytes": _memory_bytes(),
        "os": _os_name(),
        "python": platform.python_version(),
        "gpu": _gpu_name(),
    }


def available_cores() -> int:
    """Logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_caches() -> list[dict[str, Any]]:
    """Data and unified caches: ``level``, ``type``, ``bytes`` of one instance, ``instances``."""
    if platform.system() == "Darwin":
        return _darwin_caches()
    seen: dict[tuple, set[str]] = {}
    for index in sorted(_CPU_FOLDER.glob("cpu[0-9]*/cache/index[0-9]*")):
        kind, size = _read(index / "type"), _parse_size(_read(index / "size"))
        level = _read(index / "level")
        if kind in ("Data", "Unified") and size and level.isdigit():
            sharers = _read(index / "shared_cpu_list") or index.parent.parent.name
            seen.setdefault((int(level), kind, size), set()).add(sharers)
    return [
        {"level": level, "type": kind, "bytes": size, "instances": len(instances)}
        for (level, kind, size), instances in sorted(seen.items())
    ]


def last_level_cache_bytes(caches: list[dict[str, Any]] | None = None) -> int | None:
    """Bytes of all instances of the last cache level together; ``None`` if unknown."""
    caches = cpu_caches() if caches is None else caches
    if not caches:
        return None
    last = max(cache["level"] for cache in caches)
    return sum(cache["bytes"] * cache["instances"] for cache in caches if cache["level"] == last)


def read_bandwidth(threads: int | None = None, repeats: int = 7, size: int | None = None) -> float:
    """Median bytes per second of a plain read of memory with ``threads`` threads (default: all).

    The buffer is ``size`` bytes long; default four times the last-level cache and at least 256 MiB,
    so that no pass is served from a cache.
    """
    from zmlx import _ext

    size = size or bandwidth_buffer_bytes()
    seconds = _ext.read_bandwidth(size, threads or _ext.num_threads(), repeats)
    return size / statistics.median(seconds)


def copy_bandwidth(threads: int | None = None, repeats: int = 7, size: int | None = None) -> float:
    """Median bytes per second moved (read and written) by a copy; see :func:`read_bandwidth`."""
    from zmlx import _ext

    size = size or bandwidth_buffer_bytes()
    seconds = _ext.copy_bandwidth(size, threads or _ext.num_threads(), repeats)
    return 2 * size / statistics.median(seconds)


def bandwidth_buffer_bytes() -> int:
    """Size of the buffer that bandwidth is measured on."""
    return max(256 << 20, 4 * (last_level_cache_bytes() or 0))


def machine_line(machine: dict[str, Any]) -> str:
    """One line for people: processor, cores, SIMD target, last-level cache, memory, system."""
    parts = [machine["cpu"], f"{machine['cores']} cores"]
    if machine["simd_target"]:
        parts.append(f"{machine['simd_target']} kernels, {machine['threads']} threads")
    if machine["last_level_cache_bytes"]:
        parts.append(f"last-level cache {machine['last_level_cache_bytes'] / 2**20:.0f} MiB")
    if machine["memory_bytes"]:
        parts.append(f"memory {machine['memory_bytes'] / 2**30:.0f} GiB")
    if machine["gpu"]:
        parts.append(f"GPU {machine['gpu']}")
    return ", ".join([*parts, machine["os"]])


def _cpu_model() -> str:
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()
    info = _read(Path("/proc/cpuinfo"))
    for field in ("model name", "Model", "Hardware"):  # x86, then Arm boards
        found = re.search(rf"^{field}\s*:\s*(.+)$", info, re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def _isa_flags() -> list[str]:
    if platform.system() == "Darwin":
        return ["asimd"] if platform.machine() == "arm64" else []
    found = re.search(
        r"^(?:flags|Features)\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE
    )
    present = set(found.group(1).split()) if found else set()
    return [flag for flag in _ISA_FLAGS if flag in present]


def _simd_target() -> str | None:
    from zmlx import _ext

    return _ext.cpu_target() or None


def _threads() -> int | None:
    from zmlx import _ext

    return _ext.num_threads()


def _darwin_caches() -> list[dict[str, Any]]:
    caches = []
    # perflevel0 are the performance cores, which the kernels run on.
    for level, name in ((1, "hw.perflevel0.l1dcachesize"), (2, "hw.perflevel0.l2cachesize")):
        size = _sysctl(name) or _sysctl(name.replace("perflevel0.", ""))
        if size.isdigit() and int(size) > 0:
            kind = "Data" if level == 1 else "Unified"
            caches.append({"level": level, "type": kind, "bytes": int(size), "instances": 1})
    return caches


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _os_name() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, Linux {platform.release()}, {platform.machine()}"


def _gpu_name() -> str | None:
    import mlx.core as mx

    if mx.default_device().type != mx.DeviceType.gpu:
        return None
    return str(mx.device_info().get("device_name", "unknown"))


def _sysctl(name: str) -> str:
    try:
        command = ["sysctl", "-n", name]
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _parse_size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not found:
        return 0
    return int(found.group(1)) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[found.group(2)]
