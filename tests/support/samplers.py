"""Samplers of tokens of both twins as functions of numpy arrays, for comparisons."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jax_impl.models.critic import critic_logits as jax_critic
from jax_impl.models.token_transformer import rows_at as jax_rows
from jax_impl.samplers.decoder import Predictor as JaxPredictor
from jax_impl.samplers.tokens import sample_tokens as jax_sample
from tests.support.transformers import Torch
from torch_impl.models.critic import critic_logits as torch_critic
from torch_impl.models.token_transformer import rows_at as torch_rows
from torch_impl.samplers.decoder import Predictor as TorchPredictor
from torch_impl.samplers.tokens import sample_tokens as torch_sample


def sample(
    twin,
    start,
    noise,
    options,
    condition,
    null=None,
    *,
    critic=False,
    embedding=None,
    offsets=None,
    every_step=False,
    timed=False,
):
    """`Sampled` as numpy arrays for the network of a `tests.transformers.Twin`.

    `noise` holds arrays (T, ...) by name. Instead of `tokens`, `ranked` may hold Gumbel noise (T, B, L, k) of
    the k most likely tokens, the most likely first; it needs `every_step`. `timed`: the network is
    told the time.
    """
    run = _with_torch if isinstance(twin, Torch) else _with_jax
    found = run(twin, start, noise, options, condition, null, (critic, embedding, offsets, every_step, timed))
    return type(found)(*map(np.asarray, found))


def _with_torch(twin, start, noise, options, condition, null, further):
    critic, embedding, offsets, every_step, timed = further
    model, noise, plan = twin._model(), twin._all(noise), twin.plan
    seen: list[Any] = []

    def network(ids, condition, **read):
        seen[:] = [model(ids, condition, **read)]
        return seen[0]

    def draw(k, positions):
        found = {name: value[k] for name, value in noise.items()}
        if positions is not None:
            found["tokens"] = torch_rows(found["tokens"], positions)
        if "ranked" in found:
            order = torch.topk(seen[0][0], found["ranked"].shape[-1]).indices
            found["tokens"] = torch.zeros(seen[0][0].shape).scatter(-1, order, found.pop("ranked"))
        return found

    with torch.no_grad():
        return torch_sample(
            TorchPredictor(
                network,
                plan.codebook_size,
                plan.mask_id,
                twin._all(condition),
                null=twin._all(null),
                critic=(lambda ids, condition: torch_critic(model, ids, condition)) if critic else None,
                prepare=model.prepare,
                timestep_factor=plan.options.timestep_factor if timed else None,
            ),
            twin._ids(start),
            draw,
            options,
            embedding=twin._in(np.zeros(embedding, np.float32)) if embedding else None,
            offsets=None if offsets is None else twin._in(offsets),
            every_step=every_step,
        )


def _with_jax(twin, start, noise, options, condition, null, further):
    critic, embedding, offsets, every_step, timed = further
    plan = twin.plan

    def run(params, start, noise, condition, null, offsets):
        model = twin._model(params)
        seen: list[Any] = []

        def network(ids, condition, **read):
            seen[:] = [model(ids, condition, **read)]
            return seen[0]

        def draw(k, positions):
            found = {name: value[k] for name, value in noise.items()}
            if positions is not None:
                found["tokens"] = jax_rows(found["tokens"], positions)
            if "ranked" in found:
                order = jax.lax.top_k(seen[0][0], found["ranked"].shape[-1])[1]
                zeros = jnp.zeros(seen[0][0].shape)
                found["tokens"] = jnp.put_along_axis(zeros, order, found.pop("ranked"), -1, inplace=False)
            return found

        return jax_sample(
            JaxPredictor(
                network if "ranked" in noise else model,
                plan.codebook_size,
                plan.mask_id,
                condition,
                null=null,
                critic=(lambda ids, condition: jax_critic(model, ids, condition)) if critic else None,
                prepare=model.prepare,
                timestep_factor=plan.options.timestep_factor if timed else None,
            ),
            start,
            draw,
            options,
            embedding=twin._in(np.zeros(embedding, np.float32)) if embedding else None,
            offsets=offsets,
            every_step=every_step,
        )

    with twin._arithmetic():
        arrays = twin._ids(start), *map(twin._all, (noise, condition, null))
        offsets = None if offsets is None else twin._in(offsets)
        return jax.jit(run)(twin._params(), *arrays, offsets)
