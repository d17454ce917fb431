"""Repro capsules: one JSON file for one measured run, with everything needed to judge it.

A capsule holds the raw value of every repetition, the machine, the software and the command line.
``capsule_schema.json`` beside this file is the one schema for all of them.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

CAPSULE_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("capsule_schema.json")


def measurement(
    name: str, variant: str, unit: str, runs: list[float], case: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One entry of a capsule's ``measurements``.

    Args:
        name: what was measured, for example ``"layer"``.
        variant: which code ran, for example ``"stock"`` or ``"fused"``.
        unit: ``"s"``, ``"tokens/s"`` or ``"bytes"``.
        runs: every value measured, in order.
        case: what distinguishes this entry from others of its name (tokens, dtype, ...).

    Raises:
        ValueError: if ``runs`` is empty.
    """
    if not runs:
        raise ValueError(f"[capsule] measurement '{name}' ({variant}) has no runs.")
    values = [float(value) for value in runs]
    return {
        "name": name,
        "variant": variant,
        "case": dict(case or {}),
        "unit": unit,
        "runs": values,
        "median": statistics.median(values),
    }


def make_capsule(
    kind: str,
    label: str,
    *,
    parameters: dict[str, Any],
    measurements: list[dict[str, Any]],
    results: dict[str, Any],
    passed: bool | None = None,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """A capsule of this run, ready to be written; the machine and the software are looked up here.

    Args:
        kind: the measuring program: ``"moe_layer"``, ``"add_rms_norm"``, ``"decode"``,
            ``"validate"``; of ``zmlx evidence`` also ``"unit_tests"``, ``"identity"`` and
            ``"evidence"``.
        label: the case, used in the file name.
        parameters: the settings of the run.
        measurements: entries made by :func:`measurement`.
        results: what follows from the measurements.
        passed: the program's verdict, if it gives one.
        command: the command line; default ``sys.argv``.
    """
    from zmlx.machine import describe_machine

    return {
        "capsule_version": CAPSULE_VERSION,
        "kind": kind,
        "label": re.sub(r"[^A-Za-z0-9._-]+", "-", label).lstrip("._-") or "run",
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": shorten_command(sys.argv if command is None else command),
        **software(),
        "machine": describe_machine(),
        "parameters": json_ready(parameters),
        "measurements": json_ready(measurements),
        "results": json_ready(results),
        "passed": passed,
    }


def write_capsule(capsule: dict[str, Any], directory: str | os.PathLike) -> Path:
    """Writes a capsule into ``directory`` (made if missing) and returns the file's path.

    The file appears whole or not at all: it is written under a temporary name, flushed to disk and
    renamed, and an interrupt removes the temporary file.

    Raises:
        OSError: if the directory cannot be written to.
        ValueError: if the capsule holds a value that JSON has no form for.
    """
    text = json.dumps(capsule, indent=2, allow_nan=False) + "\n"
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = capsule["created"].replace("-", "").replace(":", "")
    target = folder / f"{capsule['kind']}-{capsule['label']}-{stamp}.json"
    handle, temporary = tempfile.mkstemp(prefix=".capsule-", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are private; a capsule is not
        os.replace(temporary, target)
    except BaseException:  # KeyboardInterrupt as well
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def read_capsules(directory: str | os.PathLike) -> list[tuple[Path, dict[str, Any]]]:
    """File and content of every capsule in ``directory``, oldest first.

    Raises:
        ValueError: if a file there is not a capsule of this version.
    """
    capsules = []
    for path in sorted(Path(directory).glob("*.json")):
        try:
            capsule = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"[capsule] {path.name} is not JSON: {error}") from None
        if not isinstance(capsule, dict) or capsule.get("capsule_version") != CAPSULE_VERSION:
            raise ValueError(f"[capsule] {path.name} is not a version {CAPSULE_VERSION} capsule.")
        capsules.append((path, capsule))
    return sorted(capsules, key=lambda entry: (entry[1]["created"], entry[0].name))


def load_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every capsule obeys."""
    return json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))


def json_ready(value: Any) -> Any:
    """``value`` with tuples as lists, paths as names, and floats that JSON lacks as ``None``."""
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return Path(value).name
    return value


def shorten_command(arguments: list[str]) -> list[str]:
    """The command line without a machine's folders: ``/a/b/model`` becomes ``model``."""
    shortened = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if equals and option.startswith("--") and os.path.isabs(value):
            shortened.append(f"{option}={_last_part(value)}")
        elif os.path.isabs(argument):
            shortened.append(_last_part(argument))
        else:
            shortened.append(argument)
    return shortened


def _last_part(path: str) -> str:
    parts = Path(path).parts
    if parts[-1] == "__main__.py":  # python -m package
        package = parts[-2:-1] if "zmlx" not in parts else parts[parts.index("zmlx") : -1]
        return "python -m " + ".".join(package)
    return parts[-1]


def check_writable(directory: str | os.PathLike) -> None:
    """Finds out before a long run whether its capsule can be written.

    Raises:
        ValueError: if the folder cannot be made or written to.
    """
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(f"Cannot write capsules to '{directory}': {error.strerror}.") from None


def software() -> dict[str, dict[str, Any]]:
    """The ``zmlx`` and ``mlx`` entries of a capsule: versions, commit, compiler, device."""
    import mlx.core as mx

    build = build_info()
    commit, dirty = _git_state()
    return {
        "zmlx": {
            "version": build.get("version") or _package_version("zmlx") or "unknown",
            "git_commit": commit or build.get("git_commit") or None,
            "git_dirty": dirty,
            "compiler": build.get("compiler") or None,
            "build": json_ready(build),
        },
        "mlx": {
            "version": mx.__version__,
            "mlx_lm_version": _package_version("mlx-lm"),
            "device": "gpu" if mx.default_device().type == mx.DeviceType.gpu else "cpu",
        },
    }


def build_info() -> dict[str, Any]:
    """What the compiled extension was built with: version, compiler, MLX, Highway, commit."""
    from zmlx import _ext

    return dict(_ext.build_info())


def _package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package lies in, and whether tracked files differ from it.

    An installed package lies in no checkout of ZMLX: the commit that the build recorded counts.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "include" / "zmlx").is_dir():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # Capsules written by this very run must not make it look changed.
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit.strip(), bool(changed.strip())


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
