"""``zmlx bench``: chooses the benchmark."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a subcommand for each benchmark to ``parser``."""
    from zmlx.bench import add_rms_norm, decode, kernels, kernels_gpu, moe_layer_cli

    parser.description = "Measures stock and fused code side by side."
    commands = parser.add_subparsers(metavar="benchmark", required=True)
    for name, module, summary in (
        ("moe-layer", moe_layer_cli, "one MoE layer, against stock and the read bandwidth"),
        ("add-rms-norm", add_rms_norm, "residual add and norm, against a copy's bandwidth"),
        ("kernels", kernels, "kernels made of formulas, against MLX and a copy's bandwidth"),
        ("kernels-gpu", kernels_gpu, "the same on a GPU, against mx.compile and a copy"),
        ("decode", decode, "a whole model: tokens per second and memory"),
    ):
        command = commands.add_parser(name, help=summary)
        module.add_arguments(command)
        command.set_defaults(run_benchmark=module.run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen benchmark; returns the exit code."""
    return arguments.run_benchmark(arguments)
