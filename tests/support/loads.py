"""Inputs for measuring each family's speed: random rows in the shapes of a configuration."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from dioscuri.context import Context
from dioscuri.contract import family_run
from dioscuri.errors import UserError
from dioscuri.families.classifier import options as classifier
from dioscuri.families.hierarchical_vae import options as hierarchical_vae
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.families.maskgit import options as maskgit
from dioscuri.families.maskgit import transformers
from dioscuri.families.metroplex import options as metroplex
from dioscuri.families.metroplex.plan import make_plan as make_metroplex
from dioscuri.families.sundae import options as sundae
from dioscuri.families.vqgan import options as vqgan
from dioscuri.families.vqgan.plan import make_plan as make_tokenizer

Rows = dict[str, np.ndarray]


class Load:
    """Rows of a training batch, and arguments of the engine's methods."""

    def __init__(self, hparams: Any, batch: int) -> None:
        if hparams.run.family not in _LOADS:
            raise UserError(f"[run] family '{hparams.run.family}' has no benchmark")
        self.hparams = hparams
        self.training, self.calls = _LOADS[hparams.run.family](hparams, batch)

    def train(self, engine: Any, step: int) -> None:
        """Queue a training step."""
        host = family_run(cast("Context", SimpleNamespace(hparams=self.hparams, engine=engine)))
        engine.train_step(self.training, step, host.scalars(step))

    def call(self, engine: Any, method: str) -> None:
        """Run a method and wait for its results on the host."""
        if method not in self.calls:
            raise UserError(
                f"--what {method} is unknown for this family: {', '.join(('train', *self.calls))}"
            )
        rows, arguments = self.calls[method]
        engine.run(method, rows, ema=True, step=0, **arguments)


def _hierarchical_vae(hparams: hierarchical_vae.HParams, batch: int) -> tuple[Rows, dict[str, Any]]:
    return _latent_groups(make_plan(hparams), batch)


def _metroplex(hparams: metroplex.HParams, batch: int) -> tuple[Rows, dict[str, Any]]:
    return _latent_groups(make_metroplex(hparams), batch)


def _latent_groups(plan: LatentPlan, batch: int) -> tuple[Rows, dict[str, Any]]:
    shape = (batch, plan.resolution, plan.resolution, plan.channels)
    pictures = _pictures(shape)
    pictures = 255 * (pictures // 128) if plan.likelihood == "bernoulli" else pictures
    drawn = {"temperatures": level_temperatures(plan, 1.0), "output": "sample"}
    return {"image": pictures}, {"generate": ({"index": np.arange(batch)}, drawn)}


def _vqgan(hparams: vqgan.HParams, batch: int) -> tuple[Rows, dict[str, Any]]:
    data = hparams.data
    plan = make_tokenizer(hparams.model, data.target_res, data.channels)
    image = {"image": _pictures((batch, data.target_res, data.target_res, data.channels))}
    tokens = np.random.default_rng(0).integers(0, plan.codebook_size, (batch, plan.grid, plan.grid), np.int32)
    return image, {"encode": (image, {}), "decode": ({"tokens": tokens}, {}), "reconstruct": (image, {})}


def _maskgit(hparams: maskgit.HParams, batch: int) -> tuple[Rows, dict[str, Any]]:
    data, model, rng = hparams.data, hparams.model, np.random.default_rng(0)
    plan = transformers.make_plan(model, data.grid, data.codebook_size)
    shapes = {"text": (data.text_length, model.encoder_hidden_size), "pooled": (model.cond_embed_dim,)}
    asked: Rows = {
        name: rng.normal(size=(batch, *shapes[name])).astype(np.float32)
        for name in plan.conditions
        if name in shapes and (data.text_length or name != "text")
    }
    if "text" in asked:
        asked["text_mask"] = np.ones(asked["text"].shape[:2], bool)
    if "micro" in plan.conditions:
        asked["micro"] = np.tile(np.array([256, 256, 0, 0, 6], np.float32), (batch, 1))
    if model.num_classes:
        asked["label"] = rng.integers(0, model.num_classes, batch, np.int32)
    tokens = {"tokens": rng.integers(0, data.codebook_size, (batch, plan.n_tokens), np.int32)}
    return tokens | asked, {"generate": (asked or {"index": np.arange(batch)}, {})}


def _sundae(hparams: sundae.HParams, batch: int) -> tuple[Rows, dict[str, Any]]:
    data, model, rng = hparams.data, hparams.model, np.random.default_rng(0)
    asked = {"label": rng.integers(0, model.num_classes, batch, np.int32)} if model.num_classes else {}
    tokens = {"tokens": rng.integers(0, data.codebook_size, (batch, data.grid**2), np.int32)}
    return tokens | asked, {"generate": (asked or {"index": np.arange(batch)}, {})}


def _classifier(hparams: classifier.HParams, batch: int) -> tuple[Rows, dict[str, Any]]:
    data = hparams.data
    image = {"image": _pictures((batch, data.target_res, data.target_res, data.channels))}
    return image | {"label": np.zeros(batch, np.int32)}, {"encode": (image, {})}


def _pictures(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


_LOADS: dict[str, Any] = {
    "hierarchical_vae": _hierarchical_vae,
    "metroplex": _metroplex,
    "vqgan": _vqgan,
    "maskgit": _maskgit,
    "sundae": _sundae,
    "classifier": _classifier,
}
