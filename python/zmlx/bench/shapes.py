"""Sizes of MoE layers: those of known models by name, or any."""

from __future__ import annotations

from dataclasses import dataclass, replace

_DEFAULTS = {"affine": (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}


@dataclass(frozen=True)
class LayerShape:
    """One MoE layer.

    Attributes:
        name: for tables and capsules.
        width: D, the model width.
        expert_width: H.
        experts: E.
        top_k: K, experts per token.
        mode: quantization mode; ``bits`` and ``group_size`` belong to it.
        activation: ``"swiglu"`` or ``"swiglu_clamped"`` (GPT-OSS).
        bias: whether the experts have bias vectors.
    """

    name: str
    width: int
    expert_width: int
    experts: int
    top_k: int
    mode: str = "affine"
    bits: int = 4
    group_size: int = 64
    activation: str = "swiglu"
    bias: bool = False

    def check(self) -> None:
        """Raises ValueError, naming the size, if the layer cannot be built."""
        for name in ("width", "expert_width", "experts", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, but there are {self.experts} experts.")
        for name in ("width", "expert_width"):
            if getattr(self, name) % self.group_size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which groups of {self.group_size} do not "
                    "divide."
                )

    def with_format(
        self, mode: str | None = None, bits: int | None = None, group_size: int | None = None
    ) -> LayerShape:
        """The same layer in another weight format; what is not given is the mode's default."""
        if mode is None and bits is None and group_size is None:
            return self
        new_mode = mode or self.mode
        if new_mode not in _DEFAULTS:
            raise ValueError(f"mode must be one of {', '.join(_DEFAULTS)}, but is '{new_mode}'.")
        kept = (self.bits, self.group_size) if new_mode == self.mode else _DEFAULTS[new_mode]
        return replace(self, mode=new_mode, bits=bits or kept[0], group_size=group_size or kept[1])

    @property
    def format(self) -> str:
        """``affine4``, ``mxfp4``, ..."""
        return f"affine{self.bits}" if self.mode == "affine" else self.mode

    def projection_bytes(self, scale_bytes: int) -> int:
        """Bytes of one expert's gate, up or down weights with their scales and biases.

        Args:
            scale_bytes: of one affine scale: 2 for 16-bit types, 4 for float32.
        """
        elements = self.width * self.expert_width
        per_group = 2 * scale_bytes if self.mode == "affine" else 1
        return elements * self.bits // 8 + elements // self.group_size * per_group

    def expert_bytes(self, scale_bytes: int) -> int:
        """Bytes of one expert: gate, up and down."""
        return 3 * self.projection_bytes(scale_bytes)

    def flops(self, tokens: int) -> int:
        """Floating-point operations of the three products; a multiply-add counts as two."""
        return 2 * 3 * self.width * self.expert_width * self.top_k * tokens


SHAPES = {
    shape.name: shape
    for shape in (
        LayerShape("lfm2-8b-a1b", 2048, 1792, 32, 4),
        LayerShape("qwen3-30b-a3b", 2048, 768, 128, 8),
        LayerShape(
            "gpt-oss-20b", 2880, 2880, 32, 4,
            mode="mxfp4", group_size=32, activation="swiglu_clamped", bias=True,
        ),
        LayerShape("glm-4.7-flash", 2048, 1536, 64, 4),
    )
}  # fmt: skip
