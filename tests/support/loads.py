"""Inputs for measuring each family's speed: random rows in the shapes of a configuration."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from dioscuri.context import Context
from dioscuri.contract import family_run
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.families.metroplex.plan import make_plan as make_metroplex
from dioscuri.families.vqgan.plan import plan_of
from dioscuri.plans.description import RowShapes
from dioscuri.run.steps import described

Rows = dict[str, np.ndarray]
Calls = dict[str, tuple[Rows, dict[str, Any]]]
"""Rows and arguments of the engine's methods."""


class Load:
    """Rows of a training batch, and arguments of the engine's methods.

    Token models get tokens, even if they have a tokenizer: its work is not theirs.
    """

    def __init__(self, hparams: Any, batch: int) -> None:
        self.hparams = hparams
        if hparams.run.family not in _CALLS:
            raise UserError(f"[run] family '{hparams.run.family}' has no benchmark")
        data = hparams.data
        if getattr(data, "tokenizer_path", ""):
            data = replace(data, tokenizer_path="")
        shapes = described(replace(hparams, data=data)).rows
        self.training = random_rows(shapes, hparams, batch)
        self.calls: Calls = _CALLS[hparams.run.family](hparams, self.training, batch)

    def train(self, engine: Any, step: int, noise: Rows | None = None) -> None:
        """Queue a training step."""
        host = family_run(cast("Context", SimpleNamespace(hparams=self.hparams, engine=engine)))
        engine.train_step(self.training, step, host.scalars(step), noise)

    def call(self, engine: Any, method: str) -> None:
        """Run a method and wait for its results on the host."""
        if method not in self.calls:
            raise UserError(
                f"--what {method} is unknown for this family: {', '.join(('train', *self.calls))}"
            )
        rows, arguments = self.calls[method]
        engine.run(method, rows, ema=True, step=0, **arguments)


def random_rows(shapes: RowShapes, hparams: Any, batch: int) -> Rows:
    """Rows of these shapes: integers below their limit, normal numbers, and truth."""
    rng = np.random.default_rng(0)
    limits = {
        "tokens": getattr(hparams.data, "codebook_size", 0),
        "label": getattr(hparams.model, "num_classes", 0),
    }

    def rows(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if dtype == "bool":
            return np.ones((batch, *shape), bool)
        if dtype == "float32":
            return rng.normal(size=(batch, *shape)).astype(np.float32)
        return rng.integers(0, limits.get(name) or np.iinfo(dtype).max + 1, (batch, *shape), dtype)

    return {name: rows(name, *shape) for name, shape in shapes.items()}


def _hierarchical_vae(hparams: Any, training: Rows, batch: int) -> Calls:
    return _latent_groups(make_plan(hparams), training, batch)


def _metroplex(hparams: Any, training: Rows, batch: int) -> Calls:
    return _latent_groups(make_metroplex(hparams), training, batch)


def _latent_groups(plan: LatentPlan, training: Rows, batch: int) -> Calls:
    if plan.likelihood == "bernoulli":
        training["image"] = 255 * (training["image"] // 128)
    drawn = {"temperatures": level_temperatures(plan, 1.0), "output": "sample"}
    return {"generate": (_asked(training, batch), drawn)}


def _vqgan(hparams: Any, training: Rows, batch: int) -> Calls:
    plan = plan_of(hparams)
    tokens = np.random.default_rng(0).integers(0, plan.codebook_size, (batch, *plan.token_shape), np.int32)
    return {"encode": (training, {}), "decode": ({"tokens": tokens}, {}), "reconstruct": (training, {})}


def _token_model(hparams: Any, training: Rows, batch: int) -> Calls:
    return {"generate": (_asked(training, batch), {})}


def _classifier(hparams: Any, training: Rows, batch: int) -> Calls:
    return {"encode": ({"image": training["image"]}, {})}


def _asked(training: Rows, batch: int) -> Rows:
    """What conditions the examples, or their numbers."""
    conditions = {name: rows for name, rows in training.items() if name not in ("image", "tokens")}
    return conditions or {"index": np.arange(batch)}


_CALLS: dict[str, Any] = {
    "hierarchical_vae": _hierarchical_vae,
    "metroplex": _metroplex,
    "vqgan": _vqgan,
    "maskgit": _token_model,
    "sundae": _token_model,
    "classifier": _classifier,
}
