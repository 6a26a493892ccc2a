"""The models of both twins as functions of numpy arrays, for comparisons."""

from dataclasses import replace
from functools import cached_property
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jax_impl.layers import pictures as jax_pictures
from jax_impl.objectives import elbo as jax_elbo
from jax_impl.samplers import ancestral as jax_ancestral
from tests.support.twin_models import JaxModel, arithmetic, bound
from torch_impl import devices as torch_devices
from torch_impl.layers import pictures as torch_pictures
from torch_impl.objectives import elbo as torch_elbo
from torch_impl.samplers import ancestral as torch_ancestral


class Twin:
    """A model with canonical weights. Arrays are NHWC; under bfloat16 noise is float32."""

    name: str

    def __init__(self, hparams, weights, precision="float32", *, checkpoint=False):
        train = replace(hparams.train, precision=precision, checkpoint_activations=checkpoint)
        self.hparams, self.precision, self.weights = replace(hparams, train=train), precision, weights
        adapter = import_module(f"{self.name}_impl.families.methods")
        self.family = adapter.methods_of(self.hparams)
        self.plan, self.shapes = self.family.plan, self.family.parameter_shapes()
        self.dtype = np.float64 if precision == "float64" else np.float32

    def forward(self, x, noise, scalars, masks=None, *, gradients=True):
        """`output`, aux, `reconstruction`, `kl`, `loss`, `log_ratios`, `divergence.<l>` and `grad/<name>`."""
        raise NotImplementedError

    def generate(self, noise, temperatures, latents=None, masks=None):
        """`output` and every aux entry."""
        raise NotImplementedError

    def normalise(self, pictures):
        """Model input from uint8 pictures."""
        raise NotImplementedError

    def read(self, output, noise, kind, temperature):
        """Values in the model's range, and uint8 pictures."""
        raise NotImplementedError

    def _results(self, elbo, x, output, aux, scalars, masks):
        terms = elbo.elbo_terms(output, aux, x, self.plan, self.hparams, masks)
        loss, metrics = elbo.training_loss(terms, self.plan, self.hparams, scalars)
        divergences = {
            f"divergence.{group}": elbo.latent_kl(aux, group, self.hparams)
            for group in range(len(self.plan.groups))
        }
        terms = {"reconstruction": terms[0], "kl": terms[1], "loss": loss, "mean_kl": metrics["kl"]}
        ratios = elbo.log_ratios(aux, self.plan, self.hparams, masks)
        return {"output": output, **aux, **terms, "log_ratios": ratios, **divergences}


class Torch(Twin):
    """The PyTorch twin."""

    name = "torch"

    @cached_property
    def model(self):
        model = self.family.build()
        compute = torch_devices.COMPUTE_DTYPES[self.precision]
        given = self.weights, self.shapes, self.dtype
        return bound(model, *given, decayed=self.family.decayed, compute=compute).eval()

    def forward(self, x, noise, scalars, masks=None, *, gradients=True):
        x, noise, masks = self._in(x), self._in(noise), self._in(masks)
        output, aux = self.model(x, noise, masks)
        outputs = self._results(torch_elbo, x, output, aux, scalars, masks)
        parameters = dict(self.model.named_parameters()) if gradients else {}
        leaves = [*parameters.values()]
        grads = torch.autograd.grad(outputs["loss"], leaves, materialize_grads=True) if gradients else ()
        outputs |= {f"grad/{name}": grad for name, grad in zip(parameters, grads, strict=True)}
        return {name: value.detach().numpy() for name, value in outputs.items()}

    @torch.no_grad()
    def generate(self, noise, temperatures, latents=None, masks=None):
        output, aux = self.model.generate(self._in(noise), temperatures, self._in(latents), self._in(masks))
        return {name: value.numpy() for name, value in {"output": output, **aux}.items()}

    def normalise(self, pictures):
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        return torch_pictures.normalise(torch.from_numpy(pictures), self.plan, self.hparams, dtype).numpy()

    def read(self, output, noise, kind, temperature):
        arguments = (self._in(output), self._in(noise), self.plan, self.hparams, kind, temperature)
        return torch_ancestral.read_values(*arguments).numpy(), torch_ancestral.read_output(
            *arguments
        ).numpy()

    def _in(self, arrays):
        return jax.tree.map(lambda array: torch.from_numpy(np.array(array, self.dtype)), arrays)


class Jax(Twin):
    """The JAX twin."""

    name = "jax"

    @cached_property
    def model(self):
        """The model in parts, and its parameters."""
        parts = JaxModel(self.family.build, self.shapes, self.family.decayed)
        compute = jnp.bfloat16 if self.precision == "bfloat16" else None
        return parts, parts.params(self.weights, self.dtype, compute)

    def forward(self, x, noise, scalars, masks=None, *, gradients=True):
        with self._arithmetic():
            parts, params = self.model

            def run(params, x, noise, scalars, masks):
                output, aux = parts.merge(params)(x, noise, masks)
                outputs = self._results(jax_elbo, x, output, aux, scalars, masks)
                return outputs["loss"], outputs

            arguments = (params, self._in(x), self._in(noise), scalars, self._in(masks))
            if gradients:
                grads, outputs = jax.jit(jax.grad(run, has_aux=True))(*arguments)
                outputs |= parts.canonical(grads, "grad/")
            else:
                _, outputs = jax.jit(run)(*arguments)
            return {name: np.asarray(value) for name, value in outputs.items()}

    def generate(self, noise, temperatures, latents=None, masks=None):
        with self._arithmetic():
            parts, params = self.model

            def run(params, noise, temperatures, latents, masks):
                output, aux = parts.merge(params).generate(noise, temperatures, latents, masks)
                return {"output": output, **aux}

            arguments = (
                self._in(noise),
                self._in(np.asarray(temperatures)),
                self._in(latents),
                self._in(masks),
            )
            outputs = jax.jit(run)(params, *arguments)
            return {name: np.asarray(value) for name, value in outputs.items()}

    def normalise(self, pictures):
        with self._arithmetic():
            return np.asarray(
                jax_pictures.normalise(jnp.asarray(pictures), self.plan, self.hparams, self.dtype)
            )

    def read(self, output, noise, kind, temperature):
        with self._arithmetic():
            arguments = (self._in(output), self._in(noise), self.plan, self.hparams, kind, temperature)
            values, pictures = jax_ancestral.read_values(*arguments), jax_ancestral.read_output(*arguments)
            return np.asarray(values), np.asarray(pictures)

    def _arithmetic(self):
        return arithmetic(self.dtype)

    def _in(self, arrays):
        return jax.tree.map(lambda array: jnp.asarray(array, self.dtype), arrays)


TWINS = {"torch": Torch, "jax": Jax}
