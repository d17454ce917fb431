"""The calls that equality.py makes, in groups that need nothing of each other."""

from __future__ import annotations

BITS = (1, 2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
FORMS = [("affine", bits, group) for bits in BITS for group in GROUPS]
FORMS += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
COMMON = [("affine", 4, 64), ("affine", 8, 64), *FORMS[-3:]]
ACTIVATIONS = ("swiglu", "geglu", "swiglu_clamped")
TYPES = {"cpu": ("float32",), "gpu": ("float32", "float16", "bfloat16")}

# (inner, outer, experts): short rows, rows for every kernel of MLX, rows that end within a step.
SHAPES = ((384, 16, 4), (1024, 128, 3), (4224, 8, 3))
GPU_SHAPES = ((384, 16, 4), (1024, 128, 3), (2080, 48, 3), (4224, 16, 3))
# Widths of models: LFM2-8B-A1B, Qwen3-30B-A3B, gpt-oss-20b, GLM-4.7-Flash.
MODELS = (
    (2048, 1792, 4, ("affine", 4, 64)),
    (2048, 768, 8, ("affine", 4, 64)),
    (2880, 2880, 4, ("mxfp4", 4, 32)),
    (2048, 1536, 4, ("affine", 8, 64)),
    (2048, 1536, 4, ("nvfp4", 4, 16)),
)

# Options of routers as models of mlx-lm have them; "bias" stands for an array.
ROUTERS = (
    dict(score="softmax"),
    dict(score="softmax", renormalize=True),
    dict(score="softmax", renormalize=True, precise=False),
    dict(score="softmax", score_dtype="float32", weights_dtype="bfloat16"),
    dict(score="sigmoid", renormalize=True, scale=2.5, eps=1e-20, bias="float32"),
    dict(score="sigmoid", renormalize=True, eps=1e-6, bias="bfloat16"),
    dict(score="sigmoid", score_dtype="float32", n_group=4, topk_group=2, bias="float32"),
    dict(score="sigmoid", n_group=8, topk_group=3, group_fill=float("-inf"), bias="float32"),
    dict(score="softmax", n_group=4, topk_group=1, group_score="max", scale=16.0),
    dict(score="topk_softmax"),
    dict(score="topk_softmax", precise=False, weights_dtype="float32"),
    dict(score="topk_softmax", renormalize=True, score_dtype="float32"),
)


class Cases:
    """Calls, and the arrays that they take, by name.

    Args:
        share: (number, of): every so manieth group, from the one of this number.
        fused: tells of a call whether the library fuses it; without it, all calls stay. On a GPU
            those that it leaves to MLX's ops are left out, but for a few, since MLX compiles large
            kernels for them.
    """

    def __init__(self, mx, device, share=(0, 1), fused=None):
        self.mx, self.device = mx, device
        self.arrays, self.calls, self._names = {}, [], {}
        self._fused, self._group, self._share = fused, 0, share
        for type_ in TYPES[device]:
            self._of_type(type_)

    def _of_type(self, type_):
        gpu = self.device == "gpu"
        for form in FORMS:
            if gpu and form[1] == 1:  # MLX's CUDA backend has none
                continue
            for shape in GPU_SHAPES if gpu else SHAPES:
                if shape[0] % form[2] == 0:
                    self._in_group(self._products, type_, form, shape)
        for width in (7, 31, 64, 100, 512, 2048, 2050, 5000):
            self._in_group(self._norms, type_, width)
        if not gpu:  # on the CPU MLX's own ops route, and kernels don't depend on the rest
            return
        for width in (8, 96, 1024, 2880, 4096, 8192, 8200, 16384):
            self._in_group(self._norms, type_, width)
        for form in COMMON:
            for top_k in (4, 8):
                self._in_group(self._every_count_of_tokens, type_, form, top_k)
            self._in_group(self._counts_of_experts, type_, form)
            self._in_group(self._views, type_, form)
        for model in MODELS:
            self._in_group(self._model, type_, *model)
        for experts, k in ((8, 2), (60, 4), (64, 6), (128, 8), (512, 10)):
            for options in ROUTERS:
                size, rest = divmod(experts, options.get("n_group", 1))
                if not rest and size > 1 and k <= size * options.get("topk_group", 1):
                    self._in_group(self._routers, type_, experts, k, options)

    def _in_group(self, make, *args):
        number, of = self._share
        if self._group % of == number:
            self.mx.random.seed(7 + self._group)
            make(*args)
        self._group += 1

    def add(self, operation, arrays, composed=False, **options):
        """
        Args:
            composed: keep the call although MLX's own ops compute it.
        """
        if self._fused and not composed and not self._fused(operation, list(arrays), options):
            return
        names = [None if array is None else self._name(array) for array in arrays]
        self.calls.append((operation, names, options))

    def _name(self, array):
        known = self._names.setdefault(id(array), str(len(self.arrays)))
        self.arrays[known] = array  # lives as long as its id is known
        return known

    # -- arrays ------------------------------------------------------------------------------------

    def _stack(self, type_, form, rows, columns, experts):
        mode, bits, group = form
        mx = self.mx
        w = (mx.random.normal((experts, rows, columns)) / columns**0.5).astype(getattr(mx, type_))
        packed = mx.quantize(w, group_size=group, bits=bits, mode=mode)
        return (*packed, None)[:3]

    def _normal(self, type_, *shape):
        return self.mx.random.normal(shape).astype(getattr(self.mx, type_))

    def _indices(self, experts, *shape):
        return self.mx.random.randint(0, experts, shape).astype(self.mx.uint32)

    def _weights(self, type_, *shape):
        return self.mx.random.uniform(0, 1, shape).astype(getattr(self.mx, type_))

    @staticmethod
    def _options(form):
        return dict(zip(("mode", "bits", "group_size"), form, strict=True))

    # -- groups ------------------------------------------------------------------------------------

    def _products(self, type_, form, shape):
        inner, outer, experts = shape
        gate, up = (self._stack(type_, form, outer, inner, experts) for _ in range(2))
        tokens = (1, 2, 3, 6, 32) if self.device == "cpu" else (1, 2, 3, 6, 9, 17, 32)
        for number, count in enumerate(tokens):
            # Whatever the number of tokens, on a GPU each is one of two kernels.
            activation = ACTIVATIONS[number % 3 if self.device == "cpu" else 2 * (number % 2)]
            bias = self._normal(type_, experts, outer) if number % 2 else None
            indices = self._indices(experts, 1, count, 2)
            x = self._normal(type_, 1, count, 1, 1, inner)
            self._swiglu(form, x, gate, up, indices, bias, activation=activation)
            y = self._normal(type_, 1, count, 2, 1, inner)
            self._combine(form, y, gate, indices, self._weights(type_, 1, count, 2), bias)

    def _swiglu(self, form, x, gate, up, indices, bias=None, rows=None, **options):
        arrays = [x, *gate, *up, rows, indices, bias, bias]
        self.add("gather_qmm_swiglu", arrays, **options, **self._options(form))

    def _combine(self, form, y, down, indices, weights, bias=None, **options):
        arrays = [y, *down, indices, weights, bias]
        self.add("gather_qmm_combine", arrays, **options, **self._options(form))

    def _every_count_of_tokens(self, type_, form, top_k):
        inner, outer, experts = 1024, 256, 16
        gate, up = (self._stack(type_, form, outer, inner, experts) for _ in range(2))
        for tokens in (*range(1, 33), 33, 64):
            # Beyond 32 tokens neither side has a kernel.
            more = dict(composed=tokens > 32 and form == COMMON[0])
            indices = self._indices(experts, 1, tokens, top_k)
            x = self._normal(type_, 1, tokens, 1, 1, inner)
            self._swiglu(form, x, gate, up, indices, **more)
            y = self._normal(type_, 1, tokens, top_k, 1, inner)
            weights = self._weights(type_, 1, tokens, top_k)
            self._combine(form, y, gate, indices, weights, **more)

    def _counts_of_experts(self, type_, form):
        inner, outer, experts = 512, 64, 40
        gate, up = (self._stack(type_, form, outer, inner, experts) for _ in range(2))
        for top_k in (1, 2, 3, 5, 6, 7, 8, 10, 16, 32):
            for tokens in (1, 5):
                indices = self._indices(experts, tokens, top_k)
                self._swiglu(form, self._normal(type_, tokens, 1, 1, inner), gate, up, indices)
                y = self._normal(type_, tokens, top_k, 1, inner)
                for other in {type_, "float32"}:
                    weights = self._weights(other, tokens, top_k)
                    self._combine(form, y, gate, indices, weights)

    def _views(self, type_, form):
        """Indices of rows, experts that do not exist, arrays with gaps, other constants."""
        mx, inner, outer, experts = self.mx, 1024, 64, 6
        gate, up = (self._stack(type_, form, outer, inner, experts) for _ in range(2))
        for tokens in (1, 6):
            x = self._normal(type_, 1, tokens, 1, 1, inner)
            y = self._normal(type_, 1, tokens, 4, 1, inner)
            indices = self._indices(experts, 1, tokens, 4)
            weights = self._weights(type_, 1, tokens, 4)
            self._swiglu(form, y, gate, up, indices)
            rows = self._indices(tokens, 1, tokens, 4)
            self._swiglu(form, x, gate, up, indices, rows=rows)
            self._swiglu(form, x, gate, up, mx.sort(indices, -1), sorted_indices=True)
            options = dict(activation="swiglu_clamped", alpha=1.25, limit=0.75)
            self._swiglu(form, x, gate, up, indices, **options)
            self._swiglu(form, x, gate, up, indices, activation="geglu", composed=tokens == 1)
            missing = indices + mx.array([0, experts, 0, 0], mx.uint32)
            self._swiglu(form, x, gate, up, missing)
            self._combine(form, y, gate, missing, weights)
            self._swiglu(form, x, gate, up, indices, gaps=True)
            self._combine(form, y, gate, indices, weights, gaps=True)

    def _model(self, type_, width, hidden, top_k, form):
        experts = 16
        gate, up = (self._stack(type_, form, hidden, width, experts) for _ in range(2))
        down = self._stack(type_, form, width, hidden, experts)
        clamped = form[0] == "mxfp4"
        for tokens in (1, 4, 16, 32):
            bias = [self._normal(type_, experts, n) if clamped else None for n in (hidden, width)]
            indices = self._indices(experts, 1, tokens, top_k)
            activation = "swiglu_clamped" if clamped else "swiglu"
            x = self._normal(type_, 1, tokens, 1, 1, width)
            self._swiglu(form, x, gate, up, indices, bias[0], activation=activation)
            y = self._normal(type_, 1, tokens, top_k, 1, hidden)
            weights = self._weights(type_, 1, tokens, top_k)
            self._combine(form, y, down, indices, weights, bias[1])

    def _norms(self, type_, width):
        weight = self._normal(type_, width)
        x, residual = self._normal(type_, 2, 3, width), self._normal(type_, 2, 3, width)
        self.add("add_rms_norm", [x[0], residual[0], weight], composed=True, eps=1e-5)
        if self.device == "gpu":
            self.add("add_rms_norm", [x, residual, weight], eps=1e-6)
            self.add("add_rms_norm", [x, residual, None], eps=1e-5)
            x, residual = self._normal(type_, 33, width), self._normal(type_, 33, width)
            self.add("add_rms_norm", [x, residual, weight], eps=1e-5)

    def _routers(self, type_, experts, k, options):
        mx, options = self.mx, dict(options)
        bias = options.pop("bias", None)
        for order in ("descending", "ascending"):
            for rows in ((4,), (1, 1), (32,), ()):
                logits = self._normal(type_, *rows, experts) * 2
                if rows == (32,):  # with ties
                    logits = mx.round(logits)
                given = None if bias is None else self._normal(bias, experts) * 0.1
                self.add("moe_route", [logits, given], k=k, order=order, **options)
        if experts == 64:  # neither side has a kernel for so many
            logits = self._normal(type_, 33, experts)
            given = None if bias is None else self._normal(bias, experts) * 0.1
            self.add("moe_route", [logits, given], composed=True, k=k, **options)
