"""Discriminators and adversarial objective of both twins as functions of numpy arrays, for comparisons."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from einops import reduce

from dioscuri.families.vqgan.discriminators import parameter_table
from dioscuri.plans.parameters import shapes
from jax_impl.models import discriminator as jax_discriminator
from jax_impl.models import lpips as jax_lpips
from jax_impl.objectives import vqgan as jax_vqgan
from tests.support.twin_models import JaxModel, arithmetic, bound
from torch_impl.models import discriminator as torch_discriminator
from torch_impl.models import lpips as torch_lpips
from torch_impl.objectives import vqgan as torch_vqgan


class Twin:
    """A discriminator with canonical weights, without prefix; the last layer is a 3x3 convolution."""

    def __init__(self, plan, options, weights, precision="float32"):
        self.plan, self.options, self.weights = plan, options, weights
        self.dtype = np.float64 if precision == "float64" else np.float32
        self.shapes, self.averages = shapes(parameter_table(plan, "")), (3.0, -3.0)

    def generator(self, x, h, kernel, *, adversarial, pooled=False):
        """`loss`, metrics, and gradients with respect to features h (B, H, W, F) and an OIHW kernel, whose
        convolution is the reconstruction of x; `pooled` adds a substitute for LPIPS."""
        raise NotImplementedError

    def discriminator(self, x, made):
        """`loss`, metrics, gradients under `grad/`, and aux of pictures and of reconstructions."""
        raise NotImplementedError

    def loss_of_logits(self, real, fake, kind):
        """The discriminator's loss."""
        raise NotImplementedError

    def _in(self, array):
        """An array in the twin's framework and dtype."""
        raise NotImplementedError

    def _averages(self):
        """`averages` of the LeCam penalty, beyond which the logits lie."""
        return tuple(self._in([x]) for x in self.averages) if self.options.lecam_weight else None

    def lpips(self, first, second, weights):
        """Distances (B,), and the gradient of their sum with respect to the second pictures."""
        raise NotImplementedError


def pooled_distance(first, second):
    """Three times the mean squared difference of the pictures at half size, (B,)."""
    first, second = (
        reduce(pictures, "b (h s) (w t) c -> b h w c", "mean", s=2, t=2) for pictures in (first, second)
    )
    return 3 * ((first - second) ** 2).mean((1, 2, 3))


class Torch(Twin):
    """The PyTorch twin."""

    def generator(self, x, h, kernel, *, adversarial, pooled=False):
        x, h, kernel = (self._in(array) for array in (x, h, kernel))
        h.requires_grad_(), kernel.requires_grad_()
        made = torch.conv2d(h.permute(0, 3, 1, 2), kernel, padding=1).permute(0, 2, 3, 1)

        def pull_back(gradient):
            return torch.autograd.grad(made, kernel, gradient, retain_graph=True)[0]

        critic = (
            (lambda pictures: torch_vqgan.Verdict((self._model()(pictures)[0],))) if adversarial else None
        )
        distance = pooled_distance if pooled else None
        loss, metrics = torch_vqgan.generator_terms(x, made, self.options, distance, critic, pull_back)
        grads = torch.autograd.grad(loss, (h, kernel))
        return self._out({"loss": loss, **metrics, "grad/h": grads[0], "grad/kernel": grads[1]})

    def discriminator(self, x, made):
        x, made, model = self._in(x), self._in(made), self._model()
        loss, metrics = torch_vqgan.discriminator_terms(
            x,
            made,
            self.options,
            lambda pictures: torch_vqgan.Verdict((model(pictures)[0],)),
            self._averages(),
        )
        parameters = dict(model.named_parameters())
        grads = torch.autograd.grad(loss, [*parameters.values()])
        metrics |= {f"grad/{name}": grad for name, grad in zip(parameters, grads, strict=True)}
        for prefix, pictures in (("real.", x), ("fake.", made)):
            metrics |= {prefix + name: value for name, value in model(pictures)[1].items()}
        return self._out({"loss": loss, **metrics})

    def loss_of_logits(self, real, fake, kind):
        return torch_vqgan.discriminator_loss(self._in(real), self._in(fake), kind).numpy()

    def lpips(self, first, second, weights):
        first, second = self._in(first), self._in(second).requires_grad_()
        distance = torch_lpips.lpips(first, second, {n: self._in(array) for n, array in weights.items()})
        (grad,) = torch.autograd.grad(distance.sum(), second)
        return self._out({"distance": distance, "grad/second": grad})

    def _model(self):
        dtype = torch.float64 if self.dtype is np.float64 else torch.float32
        model: Any = torch_discriminator.build_discriminator(self.plan)
        return bound(model.to(dtype), self.weights, self.shapes, self.dtype)

    def _in(self, array):
        return torch.from_numpy(np.array(array, self.dtype))

    def _out(self, outputs):
        return {name: value.detach().numpy() for name, value in outputs.items()}


class Jax(Twin):
    """The JAX twin."""

    def generator(self, x, h, kernel, *, adversarial, pooled=False):
        def run(h, kernel, params, x):
            def output(kernel, h):
                return jax.lax.conv_general_dilated(
                    h, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "OIHW", "NHWC")
                )

            made, pull = jax.vjp(lambda kernel: output(kernel, h), kernel)
            critic = (
                (lambda pictures: jax_vqgan.Verdict((self._model(params)(pictures)[0],)))
                if adversarial
                else None
            )
            distance = pooled_distance if pooled else None
            return jax_vqgan.generator_terms(
                x, made, self.options, distance, critic, lambda gradient: pull(gradient)[0]
            )

        with self._arithmetic():
            grad = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))
            arguments = self._in(h), self._in(kernel), self._params(), self._in(x)
            (loss, metrics), grads = grad(*arguments)
            return self._out({"loss": loss, **metrics, "grad/h": grads[0], "grad/kernel": grads[1]})

    def discriminator(self, x, made):
        def run(params, x, made):
            model = self._model(params)
            loss, metrics = jax_vqgan.discriminator_terms(
                x,
                made,
                self.options,
                lambda pictures: jax_vqgan.Verdict((model(pictures)[0],)),
                self._averages(),
            )
            for prefix, pictures in (("real.", x), ("fake.", made)):
                metrics |= {prefix + name: value for name, value in model(pictures)[1].items()}
            return loss, metrics

        with self._arithmetic():
            params = self._params()
            grad = jax.jit(jax.value_and_grad(run, has_aux=True))
            (loss, metrics), grads = grad(params, self._in(x), self._in(made))
            return self._out({"loss": loss, **metrics}) | self.parts.canonical(grads, "grad/")

    def loss_of_logits(self, real, fake, kind):
        with self._arithmetic():
            return np.asarray(jax_vqgan.discriminator_loss(self._in(real), self._in(fake), kind))

    def lpips(self, first, second, weights):
        def run(second, first, weights):
            distance = jax_lpips.lpips(first, second, weights)
            return distance.sum(), distance

        with self._arithmetic():
            weights = {name: self._in(array) for name, array in weights.items()}
            grad, distance = jax.jit(jax.grad(run, has_aux=True))(self._in(second), self._in(first), weights)
            return self._out({"distance": distance, "grad/second": grad})

    def _params(self):
        def build():
            return jax_discriminator.build_discriminator(self.plan)

        self.parts = JaxModel(build, self.shapes)
        return self.parts.params(self.weights, self.dtype)

    def _model(self, params):
        return self.parts.merge(params)

    def _arithmetic(self):
        return arithmetic(self.dtype)

    def _in(self, array):
        return jnp.asarray(array, self.dtype)

    def _out(self, outputs):
        return {name: np.asarray(value) for name, value in outputs.items()}


TWINS = {"torch": Torch, "jax": Jax}
