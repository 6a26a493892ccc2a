"""Masked token transformers of both twins as functions of numpy arrays, for comparisons."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dioscuri.families.maskgit.transformers import parameter_table
from dioscuri.plans.parameters import shapes
from jax_impl.models import critic as jax_critic
from jax_impl.models.transformers import build_transformer as build_jax
from tests.support.twin_models import JaxModel, arithmetic, bound
from torch_impl.models import critic as torch_critic
from torch_impl.models.transformers import build_transformer as build_torch

DTYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": np.float32}


def outputs_of(model, ids, condition, noise):
    """The results of the model's call by name and, unless it is SUNDAE's denoiser, `sequence_logits`, which
    include the class token's."""
    if not hasattr(model, "hidden"):
        logits, aux = model(ids, condition, noise)
        return {"logits": logits, **aux}
    x, aux = model.hidden(ids, condition, noise)
    logits = model.logits(x)
    return {"logits": logits[:, int(model.plan.class_token) :], **aux, "sequence_logits": logits}


class Twin:
    """A network with replaceable canonical weights, which are float32 under bfloat16."""

    table: Any = staticmethod(parameter_table)

    def __init__(self, plan, weights, precision="float32", *, checkpoint=False):
        self.plan, self.weights, self.precision, self.checkpoint = plan, weights, precision, checkpoint
        self.dtype, self.shapes = DTYPES[precision], shapes(self.table(plan))

    def forward(self, ids, condition, noise=None, *, prepared=False):
        """`logits` and all intermediates; `prepared` prepares the condition beforehand."""
        raise NotImplementedError

    def both(self, ids, condition, cotangents, noise=None):
        """The result of `forward`, and the gradients with respect to every parameter of the sum of
        outputs times their cotangents."""
        raise NotImplementedError

    def pull_back(self, ids, condition, cotangents, noise=None):
        """The gradients of `both`."""
        return self.both(ids, condition, cotangents, noise)[1]

    def criticise(self, ids, condition, cotangent=None):
        """Logits (B, L) of the critic or, with a cotangent, the gradients of their product's sum."""
        raise NotImplementedError


class Torch(Twin):
    """The PyTorch twin."""

    build: Any = staticmethod(build_torch)

    def forward(self, ids, condition, noise=None, *, prepared=False):
        with torch.no_grad():
            model = self._model()
            condition = self._all(condition)
            condition = model.prepare(condition) if prepared else condition
            return self._out(outputs_of(model, self._ids(ids), condition, self._all(noise)))

    def both(self, ids, condition, cotangents, noise=None):
        model = self._model()
        outputs = outputs_of(model, self._ids(ids), self._all(condition), self._all(noise))
        loss = sum((outputs[name] * self._in(c)).sum() for name, c in cotangents.items())
        return self._out(outputs), self._gradients(model, loss)

    def criticise(self, ids, condition, cotangent=None):
        model = self._model()
        logits = torch_critic.critic_logits(model, self._ids(ids), self._all(condition))
        if cotangent is None:
            return logits.detach().numpy()
        return self._gradients(model, (logits * self._in(cotangent)).sum())

    def _gradients(self, model, loss):
        parameters = dict(model.named_parameters())
        grads = torch.autograd.grad(loss, [*parameters.values()], materialize_grads=True)
        return {name: grad.numpy() for name, grad in zip(parameters, grads, strict=True)}

    def _model(self):
        model = self.build(self.plan, checkpoint=self.checkpoint)
        compute = torch.bfloat16 if self.precision == "bfloat16" else None
        return bound(model, self.weights, self.shapes, self.dtype, compute=compute).eval()

    def _out(self, outputs):
        outputs = {name: value.detach() for name, value in outputs.items()}
        return {
            name: (value.float() if value.dtype == torch.bfloat16 else value).numpy()
            for name, value in outputs.items()
        }

    def _ids(self, ids):
        return torch.from_numpy(np.array(ids, np.int64))

    def _all(self, arrays):
        return None if arrays is None else {name: self._in(array) for name, array in arrays.items()}

    def _in(self, array):
        array = np.asarray(array)
        kinds = {"f": self.dtype, "b": np.bool_}
        return torch.from_numpy(np.array(array, kinds.get(array.dtype.kind, np.int64)))


class Jax(Twin):
    """The JAX twin, whose compiled programs also serve later weights."""

    scan = False
    build: Any = staticmethod(build_jax)

    def forward(self, ids, condition, noise=None, *, prepared=False):
        with self._arithmetic():
            arguments = self._ids(ids), self._all(condition), self._all(noise)
            return self._out(self._forward(self._params(), *arguments, prepared))

    def both(self, ids, condition, cotangents, noise=None):
        with self._arithmetic():
            arguments = self._ids(ids), self._all(condition), self._all(noise), self._all(cotangents)
            grads, outputs = self._both(self._params(), *arguments)
            return self._out(outputs), self._canonical(grads)

    def criticise(self, ids, condition, cotangent=None):
        with self._arithmetic():
            arguments = self._params(), self._ids(ids), self._all(condition)
            if cotangent is None:
                return np.asarray(self._criticise(*arguments))
            return self._canonical(self._pull_back_critic(*arguments, self._in(cotangent)))

    @cached_property
    def _forward(self):
        def run(params, ids, condition, noise, prepared):
            model = self._model(params)
            return outputs_of(model, ids, model.prepare(condition) if prepared else condition, noise)

        return jax.jit(run, static_argnums=4)

    @cached_property
    def _both(self):
        def run(params, ids, condition, noise, cotangents):
            outputs = outputs_of(self._model(params), ids, condition, noise)
            return sum((outputs[name] * c).sum() for name, c in cotangents.items()), outputs

        return jax.jit(jax.grad(run, has_aux=True))

    @cached_property
    def _criticise(self):
        def run(params, ids, condition):
            return jax_critic.critic_logits(self._model(params), ids, condition)

        return jax.jit(run)

    @cached_property
    def _pull_back_critic(self):
        def run(params, ids, condition, cotangent):
            return (jax_critic.critic_logits(self._model(params), ids, condition) * cotangent).sum()

        return jax.jit(jax.grad(run))

    @cached_property
    def _parts(self):
        def build():
            return self.build(self.plan, checkpoint=self.checkpoint, scan=self.scan)

        return JaxModel(build, self.shapes)

    def _params(self):
        compute = jnp.bfloat16 if self.precision == "bfloat16" else None
        return self._parts.params(self.weights, self.dtype, compute)

    def _model(self, params):
        return self._parts.merge(params)

    def _out(self, outputs):
        return {
            name: np.asarray(value.astype(jnp.float32) if value.dtype == jnp.bfloat16 else value)
            for name, value in outputs.items()
        }

    def _canonical(self, grads):
        return self._parts.canonical(grads)

    def _arithmetic(self):
        return arithmetic(self.dtype)

    def _ids(self, ids):
        return jnp.asarray(ids, jnp.int32)

    def _all(self, arrays):
        return None if arrays is None else {name: self._in(array) for name, array in arrays.items()}

    def _in(self, array):
        array = np.asarray(array)
        kinds = {"f": self.dtype, "b": np.bool_}
        return jnp.asarray(array, kinds.get(array.dtype.kind, np.int32))


TWINS = {"torch": Torch, "jax": Jax}
