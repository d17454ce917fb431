"""Generated CUDA compiles. Generated Metal is compiled and run by tests/metal."""

import random
import re
import shutil
import subprocess

import mlx.core as mx
import pytest
import zmlx
from kernel_cases import MANY, many_arrays, strided_pairs
from nvrtc import compile_log, nvrtc_library

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
ARCHITECTURES = ("80", "90", "100", "120")
DTYPES = (mx.float32, mx.float16, mx.bfloat16, mx.int32, mx.uint32)
UNARY = """abs acos acosh asin asinh atan atanh cbrt ceil cos cosh erf erfc exp exp2 expm1 floor
gelu gelu_tanh log log10 log1p log2 relu rint round rsqrt sigmoid sign silu sin sinh softplus sqrt
tan tanh trunc""".split()  # noqa: SIM905


def formula(rng, depth):
    """A random formula of a and b, as text."""
    if depth == 0:
        return rng.choice(["a", "b", "0.5f", "-1.25", "3", "INFINITY"])
    one, two = formula(rng, depth - 1), formula(rng, depth - 1)
    return rng.choice(
        [
            f"{rng.choice(UNARY)}({one})",
            f"({one} {rng.choice('+-*/')} {two})",
            f"{rng.choice(['min', 'max', 'pow', 'atan2', 'fmod', 'copysign'])}({one}, {two})",
            f"({one} < {two} ? {two} : {one})",
            f"float(int({one}) {rng.choice(['+', '/', '%', '&', '<<', '>>'])} int({two}))",
            f"float(uint({one}) ^ (uint({two}) >> 3u))",
            f"float({rng.choice(['half', 'bfloat'])}({one}) * half({two}))",
            f"ldexp({one}, {rng.choice(['-3', 'int(a)', 'ilogb(b)'])}) - nextafter({one}, {two})",
            f"(isnan({one}) || !({two} >= {one}) ? {one} : fma({one}, {two}, {one}))",
        ]
    )


def kernels():
    rng = random.Random(5)
    made = [
        zmlx.elementwise("a + b + " + formula(rng, 4), name=f"random{i}", inputs=["a", "b"])
        for i in range(12)
    ]
    made.append(zmlx.elementwise("(x * 3 + 1) % 7 << 2 ^ -x", compute_dtype=mx.int32, name="ints"))
    made += [
        zmlx.elementwise("x * tanh(x) + 0.5f * kk_gelu_tanh(x)", compute_dtype=t, name=f"typed{i}")
        for i, t in enumerate((mx.float16, mx.bfloat16))
    ]
    made.append(zmlx.reduce(init="0", update="acc + v * v", finalize="sqrt(s)", name="norm2"))
    made.append(zmlx.reduce(init="0", update="acc * 0.5f + v", name="horner"))
    made.append(zmlx.reduce(init="1", update="acc * v", name="product"))
    made.append(zmlx.reduce(init="3", update="max(acc, v)", compute_dtype=mx.int32, name="largest"))
    made.append(
        zmlx.map_reduce(
            pass1={"init": "-INFINITY", "update": "max(acc1, x)", "reduce": "max(a, b)"},
            pass2={"init": "0.0f", "update": "acc2 + exp(x - s1)", "reduce": "a + b"},
            write="exp(x - s1) / s2",
            name="softmax",
        )
    )
    made.append(
        zmlx.map_reduce(
            pass1={"init": "0", "update": "fma(acc1, 0.5f, x)", "reduce": "a + 2 * b"},
            pass2={"init": "0", "update": "acc2 + x * s1", "reduce": "a + b"},
            write="x - s2",
            name="partial",
        )
    )
    return made


# A row in registers, whole and not, as elements, for 32 threads, and longer than registers hold.
ROWS = ((9, 4096), (9, 4000), (9, 1001), (9, 24), (9, 200_000))


def sources(backend):
    for i, kernel in enumerate(kernels()):
        of_rows = "v" in kernel.inputs or kernel.name in ("softmax", "partial")
        for k, shape in enumerate(ROWS if of_rows else [(4096, 4096) if i % 2 else (77,)]):
            name = f"{kernel.name}{k}"
            yield name, kernel.source(backend, DTYPES[(i + k) % len(DTYPES)], shape=shape)
            if kernel.name not in ("ints", "horner", "largest", "partial"):
                dtype = DTYPES[(i + k) % 3]
                yield f"{name}_vjp", kernel.source(backend, dtype, of="vjp", shape=shape)


def sources_with_gaps(backend):
    kernel = zmlx.elementwise("a * b + 2 * a - b")
    for k, (_, a, b) in enumerate(strided_pairs()):
        if a.size and b.size:
            yield f"gaps{k}", kernel.source(backend, arrays=[a, b])
    many = zmlx.elementwise(MANY)
    yield "many", many.source(backend, arrays=many_arrays())


def test_arrays_with_gaps_are_read_where_they_lie():
    kernel = zmlx.elementwise("a * b")
    x = mx.zeros((64, 128), mx.bfloat16)
    row = kernel.source("cuda", arrays=[x, x[3]])
    assert "reinterpret_cast<const zmlx::Vector<zmlx::bf16, 8>*>(in1 + o1 + c0 * s1_0 + c1)" in row
    assert "(in0)[i]" in row
    column = kernel.source("cuda", arrays=[x, x[:, :1]])
    assert "v1[u] = (in1)[o1 + c0 * s1_0]" in column
    transposed = kernel.source("metal", arrays=[x, mx.zeros((128, 64)).T])
    assert "v1[u][j] = in1[at1 + j * s1_1]" in transposed
    number = kernel.source("cuda", arrays=[x, mx.array(2.0, mx.bfloat16)])
    assert "zmlx::to_float(in1[0])" in number and "o1" not in number
    vjp = kernel.source("metal", arrays=[x.T, x.T, x.T], of="vjp")
    assert "in2[at2 + j * s2_1]" in vjp
    with pytest.raises(ValueError, match="takes 2 arrays, not 1"):
        kernel.source("metal", arrays=[x])
    with pytest.raises(ValueError, match="backends are"):
        kernel.source("opencl", arrays=[x, x])


def test_names_of_the_user_appear_in_no_code():
    kernel = zmlx.elementwise("secret_input * 2", name="secret_name")
    for backend in ("metal", "cuda"):
        assert "secret" not in kernel.source(backend)
    with pytest.raises(ValueError, match="backends are 'metal' and 'cuda', not 'opencl'"):
        kernel.source("opencl")


def cuda_file():
    """All kernels, each in a namespace of its own, for compilers start slowly; and how many."""
    texts, head = [], None
    for name, source in [*sources("cuda"), *sources_with_gaps("cuda")]:
        made = r'__device__ __\w+__ (void formula|\w+( \w+)? combine0)\(|extern "C"'
        at = re.search(made, source).start()
        head = source[:at]
        body = source[at:].replace('extern "C" ', "")
        texts.append(f"namespace {name} {{\n{body}\n}}\n")
    assert len(texts) > 50
    return head + "".join(texts), len(texts)


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_cuda_compiles(tmp_path):
    text, count = cuda_file()
    file = tmp_path / "kernels.cu"
    file.write_text(text)
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    done = subprocess.run(
        [NVCC, "-std=c++17", "-c", "-Werror=all-warnings", "-diag-suppress=177", "-Xptxas=-v"]
        + ["--threads=2", *targets, "-o", tmp_path / "out.o", file],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    spills = re.findall(r"(\d+) bytes spill stores", done.stderr)
    assert len(spills) >= len(ARCHITECTURES) * count and set(spills) == {"0"}


@pytest.mark.skipif(nvrtc_library() is None, reason="NVRTC is not installed")
def test_cuda_compiles_with_nvrtc():
    """As the library does. It is stricter than nvcc."""
    status, log = compile_log(cuda_file()[0])
    assert status == 0, log[:4000]
    assert "warning" not in log, log[:4000]
