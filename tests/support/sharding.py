"""Every family's training step on several devices: tiny models, and what three steps make of them."""

from functools import partial
from types import SimpleNamespace
from typing import cast

import numpy as np

from dioscuri.context import Context
from dioscuri.contract import family_run
from dioscuri.hparams import load
from dioscuri.run.steps import described
from tests.support import tiny_classifier, tiny_maskgit, tiny_sundae, tiny_vqgan
from tests.support.engines import BATCH, make_engine, recorded_noise, tiny
from tests.support.loads import random_rows
from tests.support.twins import ROOT


def metroplex(*overrides):
    """Options of a small Metroplex."""
    return load(ROOT / "egs" / "metroplex" / "digits.cfg", overrides)


ATTENTION = (
    "model.width=16",
    "model.enc_blocks=''",
    "model.dec_blocks=''",
    "model.transformer=True",
    "model.base_hidden_res=4",
    "model.depth=2",
    "model.head_dim=8",
    "model.zdim=4",
)
CASES = {
    "hierarchical_vae": (tiny, ("optimizer.clip_gradient_norm=True",)),
    "metroplex": (metroplex, (*ATTENTION, "train.checkpoint_activations=True")),
    # Without batch norm and adaptive weight, which each process computes from its own rows.
    "vqgan": (
        tiny_vqgan.tiny,
        (
            "loss.alternating=True",
            "loss.disc_start=0",
            "discriminator.norm=instance",
            "loss.adaptive_disc_weight=False",
        ),
    ),
    "maskgit": (tiny_maskgit.tiny, ("model.architecture=halton",)),
    "sundae": (tiny_sundae.tiny, ("loss.unroll_steps=2",)),
    "classifier": (tiny_classifier.tiny, ("train.accumulation_steps=2",)),
}
"""Family -> its options, and what they are overridden with: each has another way to take its step."""


def options(family, *overrides):
    """Options of a family's tiny model."""
    make, words = CASES[family]
    return make(*words, f"train.batch_size={BATCH}", "train.total_train_steps=1000", *overrides)


def trained(twin, family, *overrides, steps=3):
    """An engine after a few steps in float64 on the rows and noise of a seed, and its losses."""
    engine = make_engine(twin, "train.precision=float64", *overrides, options=partial(options, family))
    return engine, losses_of(engine, range(steps))


def losses_of(engine, steps):
    """Train on the rows and noise of a seed, of which a process takes its share; returns the losses."""
    host = family_run(cast("Context", SimpleNamespace(hparams=engine.hparams, engine=engine)))
    rows = random_rows(described(engine.hparams).rows, engine.hparams, BATCH)
    losses = []
    for step in steps:
        shares = [
            {name: engine.devices.share(array) for name, array in arrays.items()}
            for arrays in (rows, recorded_noise(engine, step))
        ]
        engine.train_step(shares[0], step, host.scalars(step), shares[1])
        losses.append(engine.fetch_metrics()["loss"])
    return np.array(losses)
