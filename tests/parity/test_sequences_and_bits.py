"""Training models of 1-D tokens and of bits is the same in both twins: a hundred steps, and runs that
continue in the other twin."""

from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save

from tests.support import engines, tiny_maskgit, tiny_titok, tiny_vqgan
from tests.support.engines import assert_curves_agree, pictures, recorded_noise, run_steps

TWINS = ("torch", "jax")
N, BATCH, TEXT, WIDTH = 100, 4, 5, 12
LENGTH = tiny_maskgit.GRID**2
MASKGEN = (
    "model.architecture=maskgen", "data.grid=0", f"data.sequence_length={LENGTH}", "data.labels=False",
    f"data.text_length={TEXT}", "model.num_classes=0", f"model.encoder_hidden_size={WIDTH}",
    f"model.cond_embed_dim={WIDTH}", "model.micro_cond_encode_dim=6", "loss.cond_dropout_prob=0.2",
    "loss.mask_schedule=arccos", "loss.loss_weight_unmasked_token=0.1", "loss.label_smoothing=0.1",
)  # fmt: skip
BIT_GROUPS = (
    "model.architecture=lfqbert", "model.codebook_splits=2", "model.num_hidden_layers=1",
    "model.hidden_dropout=0.1", "loss.sum_splits=True", "loss.masking=bernoulli", "loss.mask_schedule=arccos",
)  # fmt: skip
IMAGEBERT = (
    "model.architecture=imagebert", "data.grid=0", f"data.sequence_length={LENGTH}",
    "model.num_hidden_layers=1", "model.hidden_dropout=0.1", "loss.mask_schedule=arccos",
)  # fmt: skip
UVITBERT = (*IMAGEBERT, "model.architecture=uvitbert", "model.num_hidden_layers=2", "model.hidden_dropout=0")
SIGNS = (
    "model.architecture=vqgan_plus", "model.quantizer=lfq", "model.entropy_loss_ratio=0.02",
    "model.entropy_type=clamped", "model.entropy_temperature=0.1", "model.entropy_gamma=0.9",
    "loss.entropy_annealing_factor=2", "loss.entropy_annealing_steps=50", "loss.disc_start=0",
    "loss.disc_weight=0.8", "discriminator.type=none", "train.precision=float64",
)  # fmt: skip


def tokens(step):
    """Tokens and their classes."""
    given, labels = tiny_maskgit.example_tokens(BATCH, seed=step)
    return {"tokens": given.reshape(BATCH, -1).astype(np.int32), "label": labels.astype(np.int32)}


def captioned(step):
    """Tokens with encoded texts that tell their classes."""
    batch, rng = tokens(step), np.random.default_rng(5)
    of_class = rng.normal(size=(tiny_maskgit.CLASSES, TEXT, WIDTH)).astype(np.float32)
    text = of_class[batch["label"]]
    conditions = {"text": text, "text_mask": np.ones((BATCH, TEXT), bool), "pooled": text.mean(1)}
    return {"tokens": batch["tokens"], **conditions, "micro": np.full((BATCH, 5), step % 7, np.float32)}


def image(step):
    return {"image": pictures(step, BATCH)}


CASES = {
    "MaskGen": (tiny_maskgit.tiny, MASKGEN, captioned, 5e-3, 0.9),
    "TiTok": (tiny_titok.tiny, ("train.precision=float64",), image, 2e-3, 0.6),
    "ImageBert": (tiny_maskgit.tiny, IMAGEBERT, tokens, 5e-3, 0.9),
    "UViTBert": (tiny_maskgit.tiny, UVITBERT, tokens, 5e-3, 0.9),
    "groups of bits": (tiny_maskgit.tiny, BIT_GROUPS, tokens, 5e-3, 0.9),
    "lookup-free": (tiny_vqgan.tiny, SIGNS, image, 1e-3, 0.6),
}
"""Options, overrides, batches, learning rate, and to which share the loss falls. Tokenizers compute in
float64: in float32, a vector is sooner or later so close to the border between two codes that the twins
choose different ones."""


def scalars(step, rate):
    schedule = {"learning_rate": rate * min(1, step / 5), "ema_decay": min(0.9, step / 10)}
    return {**schedule, "adversarial": 0.0, "gumbel_temperature": 1.0,
            "entropy_annealing": 2 * max(0, 1 - step / 50)}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def trained(request):
    """Engines of both twins after a hundred steps, how to train them, and the losses."""
    options, overrides, batch_of, rate, fall = CASES[request.param]

    def train(engine, steps):
        noise = partial(recorded_noise, engine, rows=BATCH)
        return run_steps(engine, steps, batch_of, partial(scalars, rate=rate), noise)

    made = {twin: engines.make_engine(twin, *overrides, options=options) for twin in TWINS}
    losses = {twin: train(engine, range(N))["loss"] for twin, engine in made.items()}
    return made, train, losses, fall


def test_a_hundred_steps_have_the_same_losses(trained):
    _, _, losses, fall = trained
    assert_curves_agree(losses, fall)


@pytest.mark.parametrize(("first", "second"), [TWINS, TWINS[::-1]])
def test_a_run_continues_in_the_other_twin(trained, first, second):
    """From the same tensors, byte for byte, with the losses of the run that was not interrupted."""
    made, train, _, _ = trained
    state = made[first].state_to_numpy()
    made[second].state_from_numpy(state)
    files = [
        {group: save(tensors) for group, tensors in made[twin].state_to_numpy().items()} for twin in TWINS
    ]
    assert files[0] == files[1]
    losses = [train(made[twin], range(N, N + 7))["loss"] for twin in TWINS]
    np.testing.assert_allclose(*losses, rtol=1e-4)
