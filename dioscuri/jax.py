"""Dioscuri in JAX: load, make, use, tune and save models of images.

    from dioscuri import jax as dio

    vq    = dio.load("logs-vqgan_digits")           # a run, a folder, a model of the hub, a shipped name
    ids   = vq.encode(pictures)                     # PIL images, uint8 or floats in [0, 1] -> int32 (N, h, w)
    back  = vq.decode(ids)                          # uint8 (N, H, W, C)

    gen   = dio.load("logs-maskgit_digits")         # brings its tokenizer along; or tokenizer=vq
    out   = gen.generate(classes=[3, 7], seed=1, steps=8, guidance_scale=2.0)
    out   = gen.inpaint(pictures, mask, classes=3, seed=1)     # mask: True where to draw again

    vae   = dio.load("logs-digits")
    score = vae.bound(pictures, samples=16)         # nats a picture: elbo, reconstruction, kl, importance
    film  = vae.interpolate(a, b, n=8)

    model = dio.new("maskgit", tokenizer=vq, hidden_size=64, num_classes=10)
    best  = dio.train("egs/maskgit/digits.cfg")     # what train.sh runs
    model.save("mine")                              # opens in the other twin

A training loop that you write:

    optimizer = optax.adamw(3e-4)
    state, moments = model.state, optimizer.init(model.state)
    step = jax.jit(jax.value_and_grad(model.loss, has_aux=True))
    for i, (pictures, classes) in enumerate(loader):
        (loss, metrics), grads = step(state, model.batch(pictures, classes=classes), jax.random.key(i))
        updates, moments = optimizer.update(grads, moments, state)
        state = optax.apply_updates(state, updates)
    model.state = state

Everything here is the same in `dioscuri.torch`. A wrong input raises `dioscuri.UserError`, a `ValueError`
of one line that says what came and what is wanted. Importing and loading change no setting of JAX.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from dioscuri.errors import UserError
from dioscuri.face.model import Model
from dioscuri.twins import require

TWIN = "jax"

require(TWIN)

from dioscuri.library import load as _load, new as _new, train as _train  # noqa: E402, I001 - if it is there

__all__ = ["Model", "UserError", "load", "new", "train"]


def load(
    where: Path | str,
    *,
    weights: Literal["average", "raw"] = "average",
    step: Literal["best", "last"] | int = "best",
    device: Any = None,
    dtype: Any = None,
    tokenizer: Model | Path | str | None = None,
    revision: str | None = None,
) -> Model:
    """Open a trained model.

    `where` is a run's folder `logs-<name>` of either twin, a folder that `save` or `save_pretrained` wrote, a
    published one whose configuration names the architecture, a model of the hub `owner/model[/folder]`, at
    `revision`, or the name of weights that come with the package.

    Of a run, `weights` chooses the moving average or the raw ones, `step` the best checkpoint by validation,
    the last one, or one by its number. `device` is a device or its name; JAX's default unless it is
    given. `dtype` is the arithmetic: 'float32', 'bfloat16' or 'float64', by default that of the run.
    `tokenizer` makes tokens of pictures for a model of tokens: a model, or a folder; by default that which
    the model was trained with.

    Raises a `UserError` where nothing is there, what is there is no model or damaged, or does not fit.
    """
    return _load.load(
        TWIN,
        where,
        weights=weights,
        step=step,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        revision=revision,
    )


def new(
    family: Path | str,
    *,
    seed: int = 0,
    tokenizer: Model | Path | str | None = None,
    device: Any = None,
    dtype: Any = None,
    **options: Any,
) -> Model:
    """Make a model with first weights, drawn from `seed`.

    `family` is 'hierarchical_vae', 'metroplex', 'vqgan', 'maskgit', 'sundae' or 'classifier', or a `.cfg`
    file. Options are those of a `.cfg`, checked in the same way: `hidden_size=64`; where several sections
    have an option, `train__batch_size=8` or `train={"batch_size": 8}`. What is left out has the default that
    `dioscuri describe` tells. With a `tokenizer`, a model of tokens takes grid, codes and pictures from it.

    Raises a `UserError` that names the option which is unknown, missing, of the wrong type or out of range.
    """
    return _new.new(TWIN, family, seed=seed, tokenizer=tokenizer, device=device, dtype=dtype, options=options)


def train(
    cfg: Path | str,
    *,
    callback: Callable[[int, dict[str, float]], object] | None = None,
    **overrides: Any,
) -> Model:
    """Train a run in this process, as `train.sh` does, and return its best model.

    `overrides` are options as for `new`: `total_train_steps=1000`, `run__name="mine"`. The run lies in
    `logs-<run.name>` and goes on where it was interrupted. `callback(step, metrics)` is called whenever
    metrics are read from the device. Raises a `UserError` as the command does, in the same words.
    """
    return _train.train(TWIN, cfg, callback=callback, overrides=overrides)
