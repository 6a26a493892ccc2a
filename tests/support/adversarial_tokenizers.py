"""Tokenizers of both twins with their discriminators as functions of numpy arrays, for comparisons.

The perceptual distance is the mean absolute difference.
"""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dioscuri.families.vqgan.discriminators import parameter_table as critic_table
from dioscuri.families.vqgan.plan import last_layer_name
from dioscuri.families.vqgan.tables import parameter_table
from dioscuri.plans.parameters import shapes
from jax_impl.families import adversaries as jax_adversaries
from jax_impl.families.vqgan import _output as jax_output
from jax_impl.layers.quantizers import entropies as jax_entropies
from jax_impl.models.discriminator import build_discriminator as jax_discriminator
from jax_impl.models.tokenizers import build_tokenizer as build_jax
from jax_impl.objectives import vqgan as jax_objectives
from tests.support import tokenizers
from tests.support.twin_models import JaxModel, bound
from torch_impl.families import adversaries as torch_adversaries
from torch_impl.layers.quantizers import entropies as torch_entropies
from torch_impl.models.discriminator import build_discriminator as torch_discriminator
from torch_impl.models.tokenizers import build_tokenizer as build_torch
from torch_impl.objectives import vqgan as torch_objectives


def _shapes(plan, critic):
    return shapes(parameter_table(plan) | critic_table(critic))


def _distance(x, made):
    return abs(x - made).mean((1, 2, 3))


def _training(run, model, x, extra, adversarial, buffers, twin):
    """The total of both networks' losses, and every number on the way."""
    plan, options, objectives, adversaries = run.plan, run.loss, twin.objectives, twin.adversaries
    z = model.encode(x)
    quantised = model.quantise(z, train=True)
    trunk = model.decode_trunk(quantised.codes)
    made, pull_back, fixed, critic = twin.parts(model, trunk, last_layer_name(plan))
    quantiser = objectives.quantiser_loss(quantised.losses, extra * plan.options.entropy_loss_ratio)
    total, found = objectives.generator_terms(
        x, made, options, _distance, fixed if adversarial else None, pull_back
    )
    if not adversarial:
        found |= {"generator": 0 * total, "disc_weight": 0 * total + options.disc_weight}
    total = total + options.codebook_weight * quantiser
    found |= {"image": made, "quantiser": quantiser, "generator_total": total}
    if adversarial:
        averages = adversaries.lecam_averages(buffers)
        of_critic, more = objectives.discriminator_terms(x, made, options, critic, averages)
        new = adversaries.updated_lecam(buffers, more, options.lecam_decay)
        found |= more | {f"new.{name}": value for name, value in new.items()}
        found |= {
            "discriminator_total": of_critic,
            "real": critic(x).logits[0],
            "fake": critic(made).logits[0],
        }
        total = total + of_critic
    return total, found


class Torch(tokenizers.Torch):
    """The PyTorch twin."""

    def __init__(self, plan, critic, loss, weights, buffers):
        super().__init__(plan, weights)
        self.critic, self.loss, self.buffers = critic, loss, buffers
        self.shapes = _shapes(plan, critic)

    def _model(self):
        model: Any = build_torch(self.plan).eval()
        model.discriminator = torch_discriminator(self.critic)
        return bound(model, self.weights, self.shapes, self.dtype)

    def entropies(self, z, temperature):
        """Mean entropy of the positions of encoded pictures, and entropy of the mean."""
        with torch.no_grad():
            affinity = self._model().quantize.affinity(torch.from_numpy(z))
            return [value.numpy() for value in torch_entropies(affinity, temperature, "clamped")]

    def quantiser_losses(self, x):
        """The losses of training."""
        with torch.no_grad():
            model = self._model()
            losses = model.quantise(model.encode(torch.from_numpy(x)), train=True).losses
            return {name: value.numpy() for name, value in losses.items()}

    def gradient_of_quantiser_loss(self, x):
        """With respect to the encoder's output."""
        model = self._model()
        z = model.encode(torch.from_numpy(x)).detach().requires_grad_()
        (grad,) = torch.autograd.grad(model.quantise(z, train=True).losses["quantiser"], z)
        return grad.numpy()

    def train_both(self, x, extra, *, adversarial):
        """Numbers of a training step, and gradients under `grad/`."""
        model = self._model()

        def parts(model, trunk, name):
            made, kernel = model.output(trunk), model.get_parameter(name)

            def pull_back(gradient):
                return torch.autograd.grad(made, kernel, gradient, retain_graph=True)[0]

            def critic(pictures):
                return torch_objectives.Verdict((model.discriminator(pictures)[0],))

            return made, pull_back, critic, critic

        buffers = {name: torch.from_numpy(array) for name, array in self.buffers.items()}
        twin = SimpleNamespace(objectives=torch_objectives, adversaries=torch_adversaries, parts=parts)
        loss, found = _training(self, model, torch.from_numpy(x), extra, adversarial, buffers, twin)
        parameters = dict(model.named_parameters())
        grads = torch.autograd.grad(loss, [*parameters.values()], materialize_grads=True)
        found |= {f"grad/{name}": grad for name, grad in zip(parameters, grads, strict=True)}
        return {name: value.detach().numpy() for name, value in found.items()}


class Jax(tokenizers.Jax):
    """The JAX twin."""

    def __init__(self, plan, critic, loss, weights, buffers):
        super().__init__(plan, weights)
        self.critic, self.loss, self.buffers = critic, loss, buffers
        self.shapes = _shapes(plan, critic)

    def _run(self, function, *arguments):
        def build():
            model: Any = build_jax(self.plan)
            model.discriminator = jax_discriminator(self.critic)
            return model

        model = JaxModel(build, self.shapes)
        params = model.params(self.weights, self.dtype)
        found = jax.jit(lambda params, *given: function(model.merge, params, *given))(
            params, *jax.tree.map(jnp.asarray, arguments)
        )
        if isinstance(found, tuple) and isinstance(found[0], dict):
            found, grads = found
            return jax.tree.map(np.asarray, found) | model.canonical(grads, "grad/")
        return jax.tree.map(np.asarray, found)

    def entropies(self, z, temperature):
        def run(merge, params, z):
            return jax_entropies(merge(params).quantize.affinity(z), temperature, "clamped")

        return self._run(run, z)

    def quantiser_losses(self, x):
        def run(merge, params, x):
            model = merge(params)
            return model.quantise(model.encode(x), train=True).losses

        return self._run(run, x)

    def gradient_of_quantiser_loss(self, x):
        def run(merge, params, x):
            model = merge(params)
            return jax.grad(lambda z: model.quantise(z, train=True).losses["quantiser"])(model.encode(x))

        return self._run(run, x)

    def train_both(self, x, extra, *, adversarial):
        def run(merge, params, x, buffers):
            def loss(params):
                return _training(self, merge(params), x, extra, adversarial, buffers, twin)

            twin = SimpleNamespace(objectives=jax_objectives, adversaries=jax_adversaries, parts=_jax_parts)
            grads, found = jax.grad(loss, has_aux=True)(params)
            return found, grads

        return self._run(run, x, self.buffers)


def _jax_parts(model, trunk, name):
    def critic(pictures, model=model):
        return jax_objectives.Verdict((model.discriminator(pictures)[0],))

    constant = jax.tree.map(jax.lax.stop_gradient, model)
    made, pull_back = jax_output(model, trunk, name)
    return made, pull_back, lambda pictures: critic(pictures, constant), critic


TWINS = {"torch": Torch, "jax": Jax}
