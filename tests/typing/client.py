"""A user's program, checked as with `mypy --strict`: the public interface has types."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dioscuri
from dioscuri import jax as in_jax
from dioscuri import torch as dio
from dioscuri.torch import Model


def use(where: Path, pictures: NDArray[np.uint8]) -> list[str]:
    """Load, encode, decode, generate, inpaint, bound, interpolate, save."""
    tokenizer: Model = dio.load(where, weights="raw", step="last", device="cpu", dtype="bfloat16")
    tokens = tokenizer.encode(pictures)
    back = tokenizer.decode(tokens)
    model = dio.load("mine", tokenizer=tokenizer, step=3)
    drawn = model.generate(4, classes=[3, 7, 1, 2], seed=1, steps=8, guidance_scale=2.0)
    filled = model.inpaint(pictures, np.ones((8, 8), bool), classes=3)
    film = model.interpolate(pictures[0], pictures[1], n=8)
    model.to(dtype="float32").save("other")
    shapes: list[tuple[int, ...]] = [array.shape for array in (back, drawn, filled, film)]
    return [f"{dioscuri.__version__}: {shape}" for shape in shapes]


def tune(model: Model, batches: Iterable[NDArray[np.uint8]]) -> float:
    """A custom training loop."""
    total = 0.0
    for pictures in batches:
        loss, metrics = model.loss(model.batch(pictures))
        total += float(loss) + float(metrics["loss"])
    return total


def make() -> Model | None:
    """New and trained models, and the error."""
    try:
        model = in_jax.new("maskgit", seed=1, hidden_size=64, num_classes=10)
        return in_jax.train("digits.cfg", callback=lambda step, metrics: print(step, metrics["loss"]))
    except dioscuri.UserError as error:
        print(error)
    except ValueError:
        raise
    else:
        model.save("mine")
    return None
