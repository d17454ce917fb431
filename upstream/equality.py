"""Compares a built tree of MLX with this project's library, bit for bit.

    python upstream/equality.py --path ~/mlx/python --library ~/build [--device gpu --jobs 16]

Inputs are made and computed here, with the library on MLX's wheel; a second interpreter computes
them with the tree's `mx.fast`. On the CPU only float32 is compared, with the library's kernels of
four lanes (docs/upstream.md says why); on a GPU all three float types, in exact mode.

Each call counts by what its graph holds: the fused primitive on both sides (these must be equal),
on one side only (wrong), or on none. The last are MLX's own ops on both sides, whose kernels may
differ between two versions of MLX: differences there are told, and no failure.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from equality_cases import TYPES, Cases

# Variables that take this project's kernels, or MLX's, off what is to be compared.
_UNSET = ("ZMLX_CUDA", "ZMLX_METAL", "ZMLX_METAL_TUNING", "ZMLX_CUDA_EXPERT_BLOCKS")


def _with_gaps(mx, array):
    doubled = mx.repeat(array, 2, axis=-1)
    mx.eval(doubled)
    return doubled[..., ::2]


def build(mx, fast, operation, given, options):
    """The outputs of a call of `equality_cases`, not evaluated."""
    types = {k: getattr(mx, v) for k, v in options.items() if k.endswith("_dtype")}
    options = options | types
    if options.pop("gaps", False):
        given = [None if array is None else _with_gaps(mx, array) for array in given]
    if operation == "gather_qmm_swiglu":
        *given, gate_bias, up_bias = given
        options = options | dict(gate_bias=gate_bias, up_bias=up_bias)
    elif operation == "gather_qmm_combine":
        *given, bias = given
        options = options | dict(bias=bias)
    elif operation == "moe_route":
        *given, bias = given
        options = options | dict(select_bias=bias)
    outputs = getattr(fast, operation)(*given, **options)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def compute(mx, fast, arrays, calls, note=lambda number: None):
    """Returns the bits of each call's results, by "call.output", and for each call what there is to
    say of it: whether its graph has the fused primitive, types, and an error's text.

    Args:
        note: told the number of the call that comes next.
    """
    results, records = {}, []
    for number, (operation, names, options) in enumerate(calls):
        note(number)
        record = dict(fused=None, outputs=[], error="")
        records.append(record)
        try:
            given = [None if name is None else arrays[name] for name in names]
            outputs = build(mx, fast, operation, given, options)
            graph = io.StringIO()
            mx.export_to_dot(graph, *outputs)
            # A primitive is named like AddRMSNorm in MLX, like add_rms_norm in the library.
            nodes = graph.getvalue().lower().replace("_", "")
            record["fused"] = operation.replace("_", "") in nodes
            mx.eval(outputs)
            mx.synchronize()
        except (RuntimeError, ValueError, TypeError) as error:
            record["error"] = str(error).strip() or repr(error)
            continue
        record["outputs"] = [f"{a.dtype} {a.shape}" for a in outputs]
        for i, a in enumerate(outputs):
            results[f"{number}.{i}"] = mx.view(mx.contiguous(a), mx.uint8)
    return results, records


def about(mx):
    """What ran: the module, the library that it loaded, the version and the device."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    loaded = {line.split()[-1] for line in lines if "libmlx" in line}
    device = mx.default_device()
    return dict(
        module=mx.__file__,
        libraries=sorted(loaded),
        version=mx.__version__,
        device=str(device),
        name=str(mx.device_info(device).get("device_name", "")),
    )


def use(mx, device):
    """Makes a device the default; raises if this MLX does not have it."""
    if device == "gpu" and not mx.is_available(mx.gpu):
        raise RuntimeError(f"{mx.__file__} has no GPU here")
    mx.set_default_device(getattr(mx, device))


def _note_in(path):
    return lambda number: path.write_text(str(number))


def run_tree(folder, device):
    """In the tree's interpreter."""
    import mlx.core as mx

    use(mx, device)
    arrays = mx.load(str(folder / "inputs.safetensors"))
    calls = json.loads((folder / "calls.json").read_text())
    known = sorted({call[0] for call in calls if hasattr(mx.fast, call[0])})
    calls = [call for call in calls if call[0] in known]
    results, records = compute(mx, mx.fast, arrays, calls, _note_in(folder / "tree.now"))
    mx.save_safetensors(str(folder / "tree.safetensors"), results or {"none": mx.zeros(1)})
    found = dict(about=about(mx), known=known, records=records)
    (folder / "tree.json").write_text(json.dumps(found))


def _command(options, *more):
    own = [__file__, "--device", options.device, "--cpu-target", options.cpu_target]
    return [*own, *(str(a) for a in more)]


def _start_tree(options, folder):
    environment = os.environ | {"PYTHONPATH": str(options.path)}
    environment["MLX_PTX_CACHE_DIR"] = str(folder / "ptx-tree")
    if options.library:
        environment["LD_LIBRARY_PATH"] = options.library
    command = [options.python, *_command(options, "--compute", folder)]
    return subprocess.Popen(command, env=environment)


def compare(options, folder, share=(0, 1)):
    """Both sides of a share of the calls; returns what `merge` takes."""
    if options.device == "cpu":
        os.environ.setdefault("ZMLX_CPU_TARGET", options.cpu_target)
    # MLX's files of compiled kernels are by name, and written while others may read them.
    os.environ["MLX_PTX_CACHE_DIR"] = str(folder / "ptx")
    import mlx.core as mx
    import zmlx
    from zmlx import fast

    use(mx, options.device)
    fast.set_default_numerics("exact")

    def fused(*call):
        return all(p.path != "fallback" for p in zmlx.explain(build, mx, fast, *call))

    cases = Cases(mx, options.device, share, fused if options.device == "gpu" else None)
    inputs = folder / "inputs.safetensors"
    mx.save_safetensors(str(inputs), cases.arrays)
    arrays = mx.load(str(inputs))  # as the tree has them
    (folder / "calls.json").write_text(json.dumps(cases.calls))
    tree = _start_tree(options, folder)
    try:
        ours, records = compute(mx, fast, arrays, cases.calls, _note_in(folder / "own.now"))
    finally:
        code = tree.wait()
    written = (folder / "tree.json").exists()
    if code and written:
        # MLX at 846d176 destroys CUDA handles when the driver is gone, one process in seven or so.
        print(f"the tree's interpreter ended with {code} after its results were written")
    if code and not written:
        at = folder / "tree.now"
        raise RuntimeError(
            f"the tree's interpreter ended with {code}"
            + (f", at call {at.read_text()} of {len(cases.calls)}" if at.exists() else "")
        )
    found = json.loads((folder / "tree.json").read_text())
    theirs = mx.load(str(folder / "tree.safetensors"))
    kept = [i for i, call in enumerate(cases.calls) if call[0] in found["known"]]
    entries = []
    for number, (i, there) in enumerate(zip(kept, found["records"], strict=True)):
        here, (operation, _, call) = records[i], cases.calls[i]
        equal = here["outputs"] == there["outputs"] and all(
            mx.array_equal(ours[f"{i}.{k}"], theirs[f"{number}.{k}"]).item()
            for k in range(len(here["outputs"]))
        )
        shapes = [None if n is None else arrays[n].shape for n in cases.calls[i][1]]
        types = sorted({str(arrays[n].dtype) for n in cases.calls[i][1] if n is not None})
        what = f"{operation} of {shapes[0]} {'/'.join(types)} {call}"
        entries.append(dict(operation=operation, what=what, equal=equal, here=here, there=there))
    return dict(sides=[about(mx), found["about"]], entries=entries)


def verdict(entry):
    """How a call counts."""
    here, there = entry["here"], entry["there"]
    if here["fused"] != there["fused"]:
        return "fused on one side"
    fused = "fused" if here["fused"] else "composed"
    if here["error"] or there["error"]:
        # What MLX has no kernel for, both sides refuse.
        both = here["error"] and there["error"] and not here["fused"]
        return "composed, refused" if both else f"{fused}, error"
    return f"{fused}, {'equal' if entry['equal'] else 'different'}"


GOOD = ("fused, equal", "composed, equal", "composed, different", "composed, refused")


def report(found, operations=()):
    """Prints counts and what is wrong; returns how many calls, or sides, are.

    Args:
        operations: those of which at least one call has to be fused and equal.
    """
    wrong = 0
    for name, side in zip(("library", "tree"), found["sides"], strict=True):
        print(
            f"{name}: MLX {side['version']} on {side['device']} {side['name']}, {side['module']} "
            f"with {', '.join(side['libraries']) or 'no shared libmlx'}"
        )
    if found["sides"][0]["module"] == found["sides"][1]["module"]:
        print("WRONG: both sides are the same MLX")
        wrong += 1
    counts, shown = Counter(), Counter()
    for entry in found["entries"]:
        how = verdict(entry)
        counts[entry["operation"], how] += 1
        wrong += how not in GOOD
        if how not in GOOD[:2]:
            shown[how] += 1
            if shown[how] <= 12:
                errors = {entry[side]["error"][:300] for side in ("here", "there")} - {""}
                print(f"{how.upper()}: {entry['what']} {' | '.join(sorted(errors))}")
    for operation in sorted({*operations, *(op for op, _ in counts)}):
        of = {how: n for (op, how), n in counts.items() if op == operation}
        print(f"{operation}: {', '.join(f'{n} {how}' for how, n in sorted(of.items())) or 'none'}")
        if not of.get("fused, equal"):
            print(f"WRONG: no fused call of {operation} was equal")
            wrong += 1
    same = sum(n for (_, how), n in counts.items() if how == "fused, equal")
    print(f"{same} fused calls equal, bit for bit; {wrong} of {len(found['entries'])} calls wrong")
    if not found["entries"]:
        print("WRONG: nothing was compared")
        wrong += 1
    return wrong


def _in_process(options, number, folder, devices):
    """Runs a share in an interpreter of its own; returns what `compare` does, or an error."""
    if time.monotonic() > options.until:
        return f"share {number} of {options.shares} was not compared: no time left"
    own = folder / str(number)
    own.mkdir()
    environment = dict(os.environ)
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    more = ["--path", options.path, "--python", options.python, "--folder", own]
    more += ["--share", f"{number}/{options.shares}"]
    if options.library:
        more += ["--library", options.library]
    done = subprocess.run(
        [sys.executable, *_command(options, *more)], env=environment, capture_output=True, text=True
    )
    path = own / "found.json"
    if done.returncode or not path.exists():
        return f"share {number} ended with {done.returncode}: {done.stderr[-1500:]}"
    found = json.loads(path.read_text())
    wrong = sum(verdict(entry) not in GOOD for entry in found["entries"])
    text = f"share {number} of {options.shares}: {len(found['entries'])} calls, {wrong} wrong"
    print(text, file=sys.stderr, flush=True)  # long before the report
    shutil.rmtree(own)
    return found


def in_shares(options, folder):
    """All calls, in `options.jobs` pairs of processes at a time; what was found, and errors."""
    options.shares = 1 if options.jobs == 1 else 4 * options.jobs
    options.until = time.monotonic() + options.seconds
    devices = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    with ThreadPoolExecutor(options.jobs) as pool:
        shares = pool.map(
            lambda number: _in_process(options, number, folder, devices), range(options.shares)
        )
        found, broken = dict(sides=None, entries=[]), []
        for share in shares:
            if isinstance(share, str):
                broken.append(share)
                continue
            found["sides"] = found["sides"] or share["sides"]
            found["entries"] += share["entries"]
    return found, broken


def parser():
    out = argparse.ArgumentParser(
        prog="equality.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--path", type=Path, help="the tree's folder `python`, with its module built")
    out.add_argument("--library", help="where libmlx is, if it is shared; several with ':'")
    out.add_argument("--python", default=sys.executable, help="interpreter of the tree's module")
    out.add_argument("--device", choices=TYPES, default="cpu")
    out.add_argument("--cpu-target", default="SSE4", help="this library's kernels on the CPU")
    out.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="pairs of processes; those of CUDA_VISIBLE_DEVICES take turns",
    )
    out.add_argument(
        "--seconds", type=float, default=float("inf"), help="after them, begin no more calls"
    )
    out.add_argument("--json", type=Path, help="where to write what was found of each call")
    for name in ("--compute", "--folder"):
        out.add_argument(name, type=Path, help=argparse.SUPPRESS)
    out.add_argument("--share", help=argparse.SUPPRESS)
    return out


def main(arguments=None):
    options = (own := parser()).parse_args(arguments)
    for name in _UNSET:
        os.environ.pop(name, None)
    if options.compute:
        run_tree(options.compute, options.device)
        return 0
    if not options.path:
        own.error("--path is needed")
    if options.share:
        share = tuple(int(part) for part in options.share.split("/"))
        found = compare(options, options.folder, share)
        (options.folder / "found.json").write_text(json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found, broken = in_shares(options, Path(folder))
    for text in broken:
        print(f"WRONG: {text}")
    if options.json:
        options.json.write_text(json.dumps(found))
    if not found["sides"]:
        return 1
    return 1 if report(found) + len(broken) else 0


if __name__ == "__main__":
    sys.exit(main())
