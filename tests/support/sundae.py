"""SUNDAE's objective and samplers of both twins as functions of numpy arrays, for comparisons."""

from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dioscuri.families.sundae.training import make_sampling_schedule
from jax_impl.objectives import sundae as jax_objective
from jax_impl.samplers.sundae import resample_tokens as jax_resample
from tests.support.denoisers import Torch
from torch_impl.objectives import sundae as torch_objective
from torch_impl.samplers.sundae import resample_tokens as torch_resample


def corrupted(twin, tokens, share, uniform, replacement):
    """Tokens with random ones."""
    codes = twin.plan.codebook_size
    corrupt: Any = (torch_objective if isinstance(twin, Torch) else jax_objective).corrupt
    with nullcontext() if isinstance(twin, Torch) else twin._arithmetic():
        noise = [twin._in(array) for array in (share, uniform, replacement)]
        return np.asarray(corrupt(twin._ids(tokens), noise[0], noise[1], noise[2], codes))


def passed(twin, logits, tokens, uniform):
    """`Terms` of a pass."""
    outputs: Any
    if isinstance(twin, Torch):
        outputs = torch_objective.pass_terms(twin._in(logits), twin._ids(tokens), twin._in(uniform))
    else:
        with twin._arithmetic():
            outputs = jax_objective.pass_terms(twin._in(logits), twin._ids(tokens), twin._in(uniform))
    return type(outputs)(*map(np.asarray, outputs))


def resample(twin, start, noise, options, condition, known=None):
    """`Resampled` of every step; `noise` holds `tokens` and `update` (T, B, ...)."""
    run = _with_torch if isinstance(twin, Torch) else _with_jax
    outputs = run(twin, start, noise, options, condition, known)
    return type(outputs)(*map(np.asarray, outputs))


def _with_torch(twin, start, noise, options, condition, known):
    model, condition, noise = twin._model(), twin._all(condition), twin._all(noise)
    with torch.no_grad():
        return torch_resample(
            lambda ids: model(ids, condition)[0],
            twin._ids(start),
            lambda k: {name: value[k] for name, value in noise.items()},
            make_sampling_schedule(options),
            options,
            None if known is None else twin._in(known),
            every_step=True,
        )


def _with_jax(twin, start, noise, options, condition, known):
    steps = make_sampling_schedule(options)

    def run(params, start, noise, condition, known):
        model = twin._model(params)
        return jax_resample(
            lambda ids: model(ids, condition)[0],
            start,
            lambda k: {name: value[k] for name, value in noise.items()},
            steps,
            options,
            known,
            every_step=True,
        )

    with twin._arithmetic():
        arrays = twin._ids(start), twin._all(noise), twin._all(condition)
        known = None if known is None else jnp.asarray(known)
        return jax.jit(run)(twin._params(), *arrays, known)
