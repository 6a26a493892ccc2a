"""An engine in a few lines of numpy: enough of a model to train, validate, save and resume a run without a
framework.

Its only parameter follows the mean of the pictures, so a missing, extra or repeated batch changes the result.
Latents are the picture's mean, repeated, so a decoded picture is known.
"""
# ruff: noqa: ARG002, ARG005 - the arguments are the protocol's

import numpy as np

from dioscuri.engine import step_program
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import make_plan


class FakeEngine:
    name = "fake"
    process_index, process_count, device_count = 0, 1, 1
    text_device = "cpu"
    compiles = False

    def __init__(self, hparams):
        self.hparams, self.plan = hparams, make_plan(hparams)
        self.L = len(self.plan.down)
        self.seen: list[int] = []  # indices of the steps trained
        self.on_step = lambda step: None
        self.bad_steps: set[int] = set()
        self._fresh()

    def _fresh(self):
        self.weight, self.ema, self.skips, self.in_row, self.updates = np.zeros(3), np.zeros(3), 0, 0, 0

    def barrier(self):
        pass

    def initialise(self):
        self._fresh()

    def train_step(self, batch, step, scalars, noise=None):
        assert set(scalars) == {"learning_rate", "beta", "gamma"}
        self.on_step(step)
        self.seen.append(step)
        if step in self.bad_steps:
            self.skips, self.in_row = self.skips + 1, self.in_row + 1
            return
        self.in_row, self.updates = 0, self.updates + 1
        image = batch["image"].astype(np.float64) / 255
        self.weight = self.weight * 0.9 + np.array([image.mean(), image.std(), image[0].mean()])
        self.ema = 0.5 * self.ema + 0.5 * self.weight

    def program(self, batch, scalars):
        return step_program(batch, scalars, ("gamma",))

    def fetch_metrics(self):
        kl = {f"kl.{group}": 1.0 for group in range(self.L)}
        return {
            "loss": 1.0,
            "reconstruction": 10.0,
            **kl,
            "grad_norm": float("nan") if self.in_row else 2.0,
            "skips": self.skips,
            "updates": self.updates,
            "skips_in_row": self.in_row,
        }

    def run(self, method, batch, *, ema, step, noise=None, **arguments):
        return getattr(self, method)(batch, ema=ema, step=step, **arguments)

    def evaluate(self, batch, *, ema, step, masked=None, masks=None):
        image = batch["image"].astype(np.float64).reshape(len(batch["image"]), -1)
        worse = 0.0 if ema else 1.0
        kl = np.ones((len(image), self.L))
        if masks is not None:
            assert masked
            kl = kl * [mask.mean() for mask in masks]
        return {"reconstruction": image.mean(1) + worse, "kl": kl, "log_ratio": kl + 0.1 * (step % 2)}

    def reconstruct(self, batch, *, ema, step, output, masks=None, output_temperature=1.0):
        terms = self.evaluate(batch, ema=ema, step=step)
        return {
            "image": self._picture(batch["image"]),
            "reconstruction": terms["reconstruction"],
            "kl": terms["kl"],
        }

    def generate(
        self, batch, *, ema, step, temperatures, output, output_temperature=1.0, guidance_scale=None
    ):
        assert len(temperatures) == self.L
        n = len(next(iter(batch.values())))
        return {
            "image": np.full((n, *self.plan.image_shape), int(100 * temperatures[0]) + step % 50, np.uint8)
        }

    def encode(self, batch, *, ema, step, masks=None, with_prior=False):
        B = len(batch["image"])
        level = self._picture(batch["image"]).mean((1, 2, 3))
        found = {}
        for group in range(self.L):
            shape = self.plan.latent_shape(group, B)
            for kind in ("mean", "std", "z", *(("prior_mean", "prior_std") if with_prior else ())):
                found[f"{kind}.{group}"] = np.broadcast_to(level[:, None, None, None], shape).astype(
                    np.float32
                )
        return found

    def decode(self, batch, *, ema, step, temperatures, output, masks=None, output_temperature=1.0):
        level = batch["z.0"].max((1, 2, 3))
        image = np.broadcast_to(level[:, None, None, None], (len(level), *self.plan.image_shape))
        return {"image": image.astype(np.uint8)}

    def divergence_statistics(self, batch, *, ema, step):
        B = len(batch["image"])
        return {
            f"kl.{g}": np.tile(np.arange(1.0, block.variates + 1) + 100 * g, (B, 1))
            for g, block in enumerate(self.plan.down)
        }

    def output_statistics(self, batch, *, ema, step):
        return {"means": np.zeros((len(batch["image"]), 4)), "log_scales": np.zeros((len(batch["image"]), 4))}

    def memory(self):
        return {"weights": 8, "average": 8, "optimizer": 16, "peak": 1000}

    def lost(self, error):
        return False

    def state_to_numpy(self, *, everywhere=True):
        return {
            "model": {"weight": self.weight.copy()},
            "ema": {"weight": self.ema.copy()},
            "optimizer": {"exp_avg.weight": np.zeros(3)},
            "counters": {"updates": np.array(self.updates), "skips": np.array(self.skips)},
        }

    def state_from_numpy(self, state):
        model, ema = state.get("model", state.get("ema")), state.get("ema", state.get("model"))
        if set(model) != {"weight"} or model["weight"].shape != (3,):
            raise UserError("model tensor 'weight' differs")
        self.weight, self.ema = model["weight"].copy(), ema["weight"].copy()
        self.updates, self.skips = int(state["counters"]["updates"]), int(state["counters"]["skips"])
        self.in_row = 0

    def _picture(self, image):
        crop = self.plan.crop
        return image[:, crop : image.shape[1] - crop, crop : image.shape[2] - crop]
