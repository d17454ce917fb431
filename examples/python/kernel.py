"""A kernel of one's own in a layer: a gated activation, trained for some steps.

python examples/python/kernel.py
"""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import zmlx

# One pass over memory instead of five, forward and backward.
gate = zmlx.elementwise("a / (1 + exp(-a)) * b", name="swiglu")


class Gated(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(gate(self.gate(x), self.up(x)))


def main() -> None:
    mx.random.seed(0)
    x = mx.random.normal((256, 16))
    target = mx.sin(2 * x)
    model = Gated(16, 64)
    optimizer = optim.Adam(learning_rate=1e-2)

    def loss(model: Gated) -> mx.array:
        return mx.mean((model(x) - target) ** 2)

    step = nn.value_and_grad(model, loss)
    for i in range(201):
        value, gradients = step(model)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        if i % 50 == 0:
            print(f"step {i:3d}: loss {value.item():.4f}")
    print(gate.explain(), end="")


if __name__ == "__main__":
    main()
