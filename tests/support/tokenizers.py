"""Image tokenizers of both twins as functions of numpy arrays, for comparisons."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dioscuri.families.vqgan.tables import parameter_table
from dioscuri.plans.parameters import shapes
from jax_impl.models.tokenizers import build_tokenizer as build_jax
from jax_impl.objectives.masked_tokens import soft_targets as jax_soft
from tests.support.twin_models import JaxModel, bound
from torch_impl.models.tokenizers import build_tokenizer as build_torch
from torch_impl.objectives.masked_tokens import soft_targets as torch_soft


class Twin:
    """A tokenizer with canonical weights."""

    def __init__(self, plan, weights, dtype=np.float32, *, checkpoint=False, power=2):
        self.plan, self.weights, self.dtype, self.checkpoint = plan, weights, dtype, checkpoint
        self.power = power
        self.shapes = shapes(parameter_table(plan))

    def forward(self, x, temperature=1.0):
        """Every stage on pictures x (B, H, W, C) in evaluation mode; soft codes have the temperature."""
        raise NotImplementedError

    def decode_indices(self, indices):
        """Pictures of indices (B, h, w)."""
        raise NotImplementedError

    def train(self, x, noise=None, buffers=None):
        """Intermediates and gradients of a training pass; the loss is mean(|made - x|^power) +
        quantiser."""
        raise NotImplementedError


def _stages(model, x, plan, soft):
    z = model.encode(x)
    quantised = model.quantise(z)
    found = {"z": z, "codes": quantised.codes, "indices": quantised.indices}
    if plan.options.quantizer in ("nearest", "ema"):
        distances = model.quantize.distances(z)
        found |= {"distances": distances, "soft": soft(distances)}
    return found | {"decoded": model.decode(quantised.codes)}


def _training(model, x, noise, buffers, power):
    z = model.encode(x, noise)
    quantised = model.quantise(z, noise, None, buffers, train=True)
    made = model.output(model.decode_trunk(quantised.codes, noise))
    loss = (abs(made - x) ** power).mean() + quantised.losses["quantiser"]
    found = {"made": made, "codes": quantised.codes, "indices": quantised.indices, "loss": loss}
    found |= {f"loss.{name}": value for name, value in quantised.losses.items()}
    return loss, found | {f"new.{name}": value for name, value in quantised.buffers.items()}


class Torch(Twin):
    """The PyTorch twin."""

    def _model(self):
        model = build_torch(self.plan, checkpoint=self.checkpoint).eval()
        return bound(model, self.weights, self.shapes, self.dtype)

    def forward(self, x, temperature=1.0):
        with torch.no_grad():
            x = torch.from_numpy(x.astype(self.dtype))
            found = _stages(self._model(), x, self.plan, lambda d: torch_soft(d, temperature))
            return {name: value.numpy() for name, value in found.items()}

    def decode_indices(self, indices):
        with torch.no_grad():
            return self._model().decode_indices(torch.from_numpy(indices.astype(np.int64))).numpy()

    def train(self, x, noise=None, buffers=None):
        def tensors(arrays):
            return {
                name: torch.from_numpy(array.astype(self.dtype)) for name, array in (arrays or {}).items()
            }

        model = self._model()
        parameters = dict(model.named_parameters())
        loss, found = _training(
            model, torch.from_numpy(x.astype(self.dtype)), tensors(noise), tensors(buffers), self.power
        )
        grads = torch.autograd.grad(loss, [*parameters.values()], materialize_grads=True)
        found = {name: value.detach().numpy() for name, value in found.items()}
        return found, {name: grad.numpy() for name, grad in zip(parameters, grads, strict=True)}


class Jax(Twin):
    """The JAX twin."""

    def _run(self, function, *arguments):
        with jax.enable_x64(self.dtype == np.float64):
            model = JaxModel(lambda: build_jax(self.plan, checkpoint=self.checkpoint), self.shapes)

            def call(params, *arguments):
                return function(model.merge, params, *arguments)

            arguments = jax.tree.map(
                lambda a: jnp.asarray(a, self.dtype if a.dtype.kind == "f" else None), arguments
            )
            params = model.params(self.weights, self.dtype)
            found = jax.jit(call)(params, *arguments)
            if isinstance(found, tuple):
                return jax.tree.map(np.asarray, found[0]), model.canonical(found[1])
            return jax.tree.map(np.asarray, found)

    def forward(self, x, temperature=1.0):
        def stages(merge, params, x):
            return _stages(merge(params), x, self.plan, lambda d: jax_soft(d, temperature))

        return self._run(stages, x)

    def decode_indices(self, indices):
        return self._run(lambda merge, params, i: merge(params).decode_indices(i), indices)

    def train(self, x, noise=None, buffers=None):
        def both(merge, params, x, noise, buffers):
            def loss(params):
                return _training(merge(params), x, noise, buffers, self.power)

            grads, found = jax.grad(loss, has_aux=True)(params)
            return found, grads

        return self._run(both, x, noise or {}, buffers or {})


TWINS = {"torch": Torch, "jax": Jax}
