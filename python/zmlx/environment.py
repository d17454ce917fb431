"""What a report says of the software and the machine, for people."""

from __future__ import annotations


def environment_lines() -> list[str]:
    """Versions, backend and machine, one line each."""
    from zmlx.capsule import software
    from zmlx.machine import describe_machine, machine_line

    found = software()
    backend = found["mlx"]["device"].upper()
    versions = [f"ZMLX {found['zmlx']['version']}", f"MLX {found['mlx']['version']} ({backend})"]
    if found["mlx"]["mlx_lm_version"]:
        versions.append(f"mlx-lm {found['mlx']['mlx_lm_version']}")
    return [
        "Versions  " + ", ".join(versions),
        "Machine   " + machine_line(describe_machine()),
    ]
