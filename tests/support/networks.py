"""Every network, as small as possible, and its arguments."""

from functools import partial

import numpy as np

from dioscuri.families.maskgit.model_options import ARCHITECTURES
from dioscuri.hparams import load
from tests.parity.metroplex_cases import BASE, CASES, SMALL
from tests.support import tiny, tiny_classifier, tiny_maskgit, tiny_sundae, tiny_vqgan


def tiny_text():
    return tiny_sundae.tiny(
        "data.dataset_source=text", "data.grid=0", "data.codebook_size=27", "data.sequence_length=8",
        "data.labels=False", "model.architecture=transformer", "model.depth=1", "model.shorten_factor=0",
        "model.num_classes=0", "model.dim_head=32",
    )  # fmt: skip


def tiny_metroplex():
    return load(BASE, [*SMALL, *next(iter(CASES.values()))])


OF_TEXT = ("uvit", "lucidrains", "maskgen", "meissonic")
SIZES = {
    "uvit": ["model.block_out_channels=[8]", "model.block_num_heads=2"],
    "meissonic": [
        "model.axes_dims_rope=[2, 2, 4]",
        "model.cond_embed_dim=16",
        "model.num_hidden_layers=1",
        "model.num_single_layers=1",
    ],
}


def tiny_transformer(architecture, *overrides):
    return tiny_maskgit.tiny(
        f"model.architecture={architecture}",
        *(["model.num_classes=0", "data.text_length=3"] if architecture in OF_TEXT else []),
        *SIZES.get(architecture, []),
        "model.critic=token" if architecture == "lucidrains" else "model.critic=none",
        *overrides,
    )


NETWORKS = {
    "hierarchical_vae": tiny.tiny,
    "classifier": tiny_classifier.tiny,
    "vqgan": tiny_vqgan.tiny,
    "metroplex": tiny_metroplex,
    "sundae": tiny_sundae.tiny,
    "text": tiny_text,
    **{name: partial(tiny_transformer, name) for name in ARCHITECTURES},
}


def inputs(hparams, methods, rows=2):
    """Positional arguments of the network, as numpy arrays and dicts of them."""
    generator = np.random.default_rng(0)
    family, plan = hparams.run.family, methods.plan
    if family in ("classifier", "vqgan"):
        side, channels = hparams.data.target_res, hparams.data.channels
        return (generator.random((rows, side, side, channels), np.float32) * 2 - 1,)
    if family in ("hierarchical_vae", "metroplex"):
        noise = {
            spec.name: generator.standard_normal(spec.shape).astype(np.float32)
            for spec in methods.noise_specs("train_step", rows)
            if spec.name.startswith("posterior.")
        }
        return generator.random((rows, *plan.image_shape), np.float32) * 2 - 1, noise
    ids = generator.integers(0, plan.codebook_size, (rows, plan.n_tokens))
    condition = {}
    if getattr(hparams.model, "num_classes", 0):
        condition["label"] = generator.integers(0, hparams.model.num_classes, rows)
    if getattr(hparams.model, "architecture", "") in OF_TEXT:
        width = hparams.model.encoder_hidden_size
        length = hparams.data.text_length
        condition["text"] = generator.standard_normal((rows, length, width)).astype(np.float32)
    if getattr(plan, "cond_inputs", 0):
        condition["pooled"] = generator.standard_normal((rows, hparams.model.cond_embed_dim)).astype("f4")
        condition["micro"] = generator.integers(1, 9, (rows, 5)).astype("f4")
    if getattr(plan, "takes_timestep", False):
        condition["timestep"] = generator.random(rows, np.float32)
    return ids, condition
