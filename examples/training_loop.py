"""A training loop of your own: train a tokenizer on the digits, then a masked token model on its tokens.

python examples/training_loop.py --steps 500 --twin jax
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--out", default="digits_maskgit")
parser.add_argument("--twin", choices=("torch", "jax"), default="torch")


def batches(size: int, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random digits, floats in [0, 1] (N, 8, 8), and their classes."""
    digits, rng = load_digits(), np.random.default_rng(0)
    for _ in range(steps):
        chosen = rng.integers(0, len(digits.images), size)
        yield digits.images[chosen] / 16, digits.target[chosen]


def loop_in_torch(model: Any, data: Iterator[tuple[np.ndarray, np.ndarray]], with_classes: bool) -> None:
    """Train with a PyTorch optimiser."""
    import torch  # noqa: PLC0415 - one twin needs no other framework

    optimizer = torch.optim.AdamW(model.module.parameters(), lr=2e-3)
    for step, (pictures, classes) in enumerate(data):
        batch = model.batch(pictures, **({"classes": classes} if with_classes else {}))
        loss, _ = model.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}: {loss.item():.4f}")


def loop_in_jax(model: Any, data: Iterator[tuple[np.ndarray, np.ndarray]], with_classes: bool) -> None:
    """Train with optax."""
    import jax  # noqa: PLC0415
    import optax  # noqa: PLC0415

    optimizer, state = optax.adamw(2e-3), model.state
    moments, gradient = optimizer.init(state), jax.jit(jax.value_and_grad(model.loss, has_aux=True))
    for step, (pictures, classes) in enumerate(data):
        batch = model.batch(pictures, **({"classes": classes} if with_classes else {}))
        (loss, _), grads = gradient(state, batch, jax.random.key(step))
        updates, moments = optimizer.update(grads, moments, state)
        state = optax.apply_updates(state, updates)
        if step % 100 == 0:
            print(f"step {step}: {loss:.4f}")
    model.state = state


def main() -> None:
    """Run the command line."""
    from importlib import import_module  # noqa: PLC0415

    options = parser.parse_args()
    dio = import_module(f"dioscuri.{options.twin}")
    loop = {"torch": loop_in_torch, "jax": loop_in_jax}[options.twin]
    sizes = {"hidden_channels": 32, "norm_groups": 8, "z_channels": 16, "embedding_dim": 16}
    tokenizer = dio.new("vqgan", target_res=8, channels=1, num_embeddings=32, **sizes)
    loop(tokenizer, batches(options.batch, options.steps), False)
    model = dio.new("maskgit", tokenizer=tokenizer, num_classes=10, hidden_size=64, num_hidden_layers=2,
                    num_attention_heads=4)  # fmt: skip
    loop(model, batches(options.batch, options.steps), True)
    model.save(options.out)
    three = model.generate(classes=[3], decode=False)[0].tolist()
    print(f"{model} in {options.out}; a three has the tokens {three}")


if __name__ == "__main__":
    main()
