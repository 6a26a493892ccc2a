"""Fine-tune a tokenizer on a folder of pictures, in PyTorch or JAX.

    python examples/fine_tune.py photos32-tokenizer pictures/ --steps 1000
    python examples/fine_tune.py openMUSE/maskgit-vqgan-imagenet-f16-256 pictures/ --steps 1000

The model is anything that `load` opens: a shipped model, a model on the hub, a run, a folder of open-muse or
diffusers.
"""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("folder", type=Path)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--rate", type=float, default=1e-5)
parser.add_argument("--out", default="tuned")
parser.add_argument("--twin", choices=("torch", "jax"), default="torch")


def read(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """All pictures in a folder, uint8 (N, H, W, C)."""
    mode = {1: "L", 3: "RGB"}[shape[-1]]
    images = [
        Image.open(path).convert(mode).resize((shape[1], shape[0])) for path in sorted(folder.glob("*.*"))
    ]
    return np.stack([np.asarray(image).reshape(shape) for image in images])


def stepper(model: Any, twin: str, rate: float) -> Any:
    """A function of a batch and the step number that updates the model and returns the loss."""
    if twin == "torch":
        import torch  # noqa: PLC0415 - one twin needs no other framework

        adam = torch.optim.Adam(model.module.parameters(), lr=rate)

        def step_in_torch(batch: Any, _step: int) -> float:
            adam.zero_grad()
            loss, _ = model.loss(batch)
            loss.backward()
            adam.step()
            return float(loss.detach())

        return step_in_torch
    import jax  # noqa: PLC0415
    import optax  # noqa: PLC0415

    rule, gradient = optax.adam(rate), jax.jit(jax.value_and_grad(model.loss, has_aux=True))
    moments = rule.init(model.state)

    def step_in_jax(batch: Any, step: int) -> float:
        nonlocal moments
        (loss, _), grads = gradient(model.state, batch, jax.random.key(step))
        updates, moments = rule.update(grads, moments, model.state)
        model.state = optax.apply_updates(model.state, updates)
        return float(loss)

    return step_in_jax


def main() -> None:
    """Run the command line."""
    options = parser.parse_args()
    model = import_module(f"dioscuri.{options.twin}").load(options.model)
    pictures, rng = read(options.folder, model.picture_shape), np.random.default_rng(0)
    step = stepper(model, options.twin, options.rate)
    before = np.abs(model.reconstruct(pictures).astype(int) - pictures).mean()
    for i in range(options.steps):
        step(model.batch(pictures[rng.integers(0, len(pictures), options.batch)]), i)
    after = np.abs(model.reconstruct(pictures).astype(int) - pictures).mean()
    model.save(options.out)
    print(f"{model}: mean error {before:.2f} levels before, {after:.2f} levels after, in {options.out}")


if __name__ == "__main__":
    main()
