"""Dioscuri in PyTorch: load, make, use, fine-tune and save image models.

    from dioscuri import torch as dio

    vq    = dio.load("logs-vqgan_digits")           # a run, a folder, a hub model, a shipped name
    ids   = vq.encode(pictures)                     # PIL images, uint8 or floats in [0, 1] -> int32 (N, h, w)
    back  = vq.decode(ids)                          # uint8 (N, H, W, C)

    gen   = dio.load("logs-maskgit_digits")         # loads its tokenizer too; or tokenizer=vq
    out   = gen.generate(classes=[3, 7], seed=1, steps=8, guidance_scale=2.0)
    out   = gen.inpaint(pictures, mask, classes=3, seed=1)     # mask: True where to sample again

    vae   = dio.load("logs-digits")
    score = vae.bound(pictures, samples=16)         # nats per picture: elbo, reconstruction, kl, importance
    film  = vae.interpolate(a, b, n=8)

    model = dio.new("maskgit", tokenizer=vq, hidden_size=64, num_classes=10)
    facts = dio.describe("egs/maskgit/digits.cfg", memory="24GB")    # what training takes, before you train
    best  = dio.train("egs/maskgit/digits.cfg")     # what train.sh runs
    model.save("mine")                              # opens in the other twin

Your own training loop:

    optimizer = torch.optim.AdamW(model.module.parameters(), lr=3e-4)
    for pictures, classes in loader:
        loss, metrics = model.loss(model.batch(pictures, classes=classes))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

Everything here is the same in `dioscuri.jax`. Wrong input raises `dioscuri.UserError`, a one-line
`ValueError` that says what was given and what is expected. Importing and loading change no PyTorch setting.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from dioscuri.errors import UserError
from dioscuri.face.model import Model
from dioscuri.twins import require

TWIN = "torch"

require(TWIN)

from dioscuri.library import describe as _describe, load as _load, new as _new, train as _train  # noqa: E402, I001 - if it is there

__all__ = ["Model", "UserError", "describe", "load", "new", "train"]


def load(
    where: Path | str,
    *,
    weights: Literal["average", "raw"] = "average",
    step: Literal["best", "last"] | int = "best",
    device: Any = None,
    dtype: Any = None,
    tokenizer: Model | Path | str | None = None,
    text_encoder: Path | str | None = None,
    revision: str | None = None,
) -> Model:
    """Open a trained model.

    `where` is a run's folder `logs-<name>` of either twin, a folder that `save` or `save_pretrained` wrote, a
    published folder whose configuration names the architecture, a model on the hub `owner/model[/folder]` at
    `revision`, or the name of weights that come with the package.

    For a run, `weights` chooses the averaged or the raw weights, and `step` the checkpoint: the best by
    validation, the last, or a number. `device` is a device or its name (default: PyTorch's). `dtype` is
    the precision: 'float32', 'bfloat16' or 'float64' (default: the run's). `tokenizer`, a model or a folder,
    replaces the tokenizer that a token model was trained with. `text_encoder`, a folder or hub id of a CLIP
    or T5 encoder of transformers, reads the prompts of a model of texts, unless one comes with it.

    Raises a `UserError` if the model does not exist, is damaged or does not fit.
    """
    return _load.load(
        TWIN,
        where,
        weights=weights,
        step=step,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
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
    """Make a model with initial weights from `seed`.

    `family` is 'hierarchical_vae', 'metroplex', 'vqgan', 'maskgit', 'sundae' or 'classifier', or a `.cfg`
    file. Options are those of a `.cfg`, with the same checks: `hidden_size=64`. If several sections have
    an option of that name, write `train__batch_size=8` or `train={"batch_size": 8}`. Other options have
    default values. A `tokenizer` sets grid, codebook size and picture size of a token model.

    Raises a `UserError` that names the option that is unknown, missing, of the wrong type or out of range.
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
    `logs-<run.name>`; an interrupted run continues. `callback(step, metrics)` is called whenever metrics are
    read from the device. Raises the same `UserError` as the command.
    """
    return _train.train(TWIN, cfg, callback=callback, overrides=overrides)


def describe(
    where: Model | Path | str,
    *,
    batch: int | None = None,
    devices: int | None = None,
    memory: str | None = None,
    mesh: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """What a model consists of, and what a training step takes: what `dioscuri describe --json` prints.

    `where` is a model, a `.cfg` file, a run's folder or a folder that `save` wrote; `overrides` are options
    as for `new`. `batch` is the global batch (default: `train.batch_size`) of `devices` (default:
    `run.num_gpus`, or one CPU), or of a `mesh` such as 'data=8,shard=8'. With `memory`
    of a device, such as '24GB', `fit` lists the largest batches. Sizes are in bytes. No network is allocated.

    Raises a `UserError` for a wrong option, a batch that the devices cannot share, or a mesh that does not
    fit.
    """
    question = _describe.question(TWIN, batch, devices, memory, mesh)
    return _describe.describe(where, question, overrides)
