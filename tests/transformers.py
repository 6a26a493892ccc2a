"""Masked token transformers of both twins as functions of numpy arrays, for comparisons."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from common.plans.layout import pack, unpack
from common.plans.parameters import shapes
from common.plans.transformers import parameter_table
from jax_impl.models import critic as jax_critic
from jax_impl.models.transformers import build_transformer as build_jax
from jax_impl.optim import flat as jax_flat
from torch_impl.models import critic as torch_critic
from torch_impl.models.transformers import build_transformer as build_torch
from torch_impl.optim import flat as torch_flat

QUICK = {"xla_backend_optimization_level": 0}
"""Halves the time that XLA compiles; every program runs once."""

DTYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": np.float32}


class Twin:
    """A network with canonical weights. Under bfloat16 parameters and conditions are float32."""

    def __init__(self, plan, weights, precision="float32", *, checkpoint=False):
        self.plan, self.weights, self.precision, self.checkpoint = plan, weights, precision, checkpoint
        self.dtype, self.shapes = DTYPES[precision], shapes(parameter_table(plan))

    def forward(self, ids, condition, noise=None, *, prepared=False):
        """`logits` and all intermediates; `prepared` prepares the condition beforehand."""
        raise NotImplementedError

    def pull_back(self, ids, condition, cotangents, noise=None):
        """Gradients, with respect to every parameter, of the sum of outputs times their cotangents."""
        raise NotImplementedError

    def criticise(self, ids, condition, cotangent=None):
        """Logits (B, L) of the critic, or with a cotangent the gradients of their sum times it."""
        raise NotImplementedError


class Torch(Twin):
    """The PyTorch twin."""

    def forward(self, ids, condition, noise=None, *, prepared=False):
        with torch.no_grad():
            model = self._model()
            condition = self._all(condition)
            condition = model.prepare(condition) if prepared else condition
            logits, aux = model(self._ids(ids), condition, self._all(noise))
            return {
                name: value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
                for name, value in {"logits": logits, **aux}.items()
            }

    def pull_back(self, ids, condition, cotangents, noise=None):
        model = self._model()
        logits, aux = model(self._ids(ids), self._all(condition), self._all(noise))
        found = {"logits": logits, **aux}
        return self._gradients(
            model, sum((found[name] * self._in(c)).sum() for name, c in cotangents.items())
        )

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
        dtype = torch.bfloat16 if self.precision == "bfloat16" else None
        model = build_torch(self.plan, dtype=dtype, checkpoint=self.checkpoint)
        layout = torch_flat.flat_layout(model, self.shapes, lambda _: True)
        torch_flat.bind(model, torch.from_numpy(pack(self.weights, layout, self.dtype)), layout)
        return model

    def _ids(self, ids):
        return torch.from_numpy(np.array(ids, np.int64))

    def _all(self, arrays):
        return None if arrays is None else {name: self._in(array) for name, array in arrays.items()}

    def _in(self, array):
        array = np.asarray(array)
        kinds = {"f": self.dtype, "b": np.bool_}
        return torch.from_numpy(np.array(array, kinds.get(array.dtype.kind, np.int64)))


class Jax(Twin):
    """The JAX twin."""

    scan = False

    def forward(self, ids, condition, noise=None, *, prepared=False):
        def run(params, ids, condition, noise):
            model = self._model(params)
            logits, aux = model(ids, model.prepare(condition) if prepared else condition, noise)
            return {"logits": logits, **aux}

        with self._arithmetic():
            arguments = self._params(), self._ids(ids), self._all(condition), self._all(noise)
            found = jax.jit(run, compiler_options=QUICK)(*arguments)
            return {
                name: np.asarray(value.astype(jnp.float32) if value.dtype == jnp.bfloat16 else value)
                for name, value in found.items()
            }

    def pull_back(self, ids, condition, cotangents, noise=None):
        def run(params, ids, condition, noise, cotangents):
            logits, aux = self._model(params)(ids, condition, noise)
            found = {"logits": logits, **aux}
            return sum((found[name] * c).sum() for name, c in cotangents.items())

        with self._arithmetic():
            arguments = self._ids(ids), self._all(condition), self._all(noise), self._all(cotangents)
            return self._gradients(run, *arguments)

    def criticise(self, ids, condition, cotangent=None):
        def run(params, ids, condition, cotangent):
            logits = jax_critic.critic_logits(self._model(params), ids, condition)
            return logits if cotangent is None else (logits * cotangent).sum()

        with self._arithmetic():
            arguments = self._ids(ids), self._all(condition)
            if cotangent is None:
                compiled = jax.jit(run, compiler_options=QUICK)
                return np.asarray(compiled(self._params(), *arguments, None))
            return self._gradients(run, *arguments, self._in(cotangent))

    def _gradients(self, run, *arguments):
        grads = jax.jit(jax.grad(run), compiler_options=QUICK)(self._params(), *arguments)
        return unpack(np.asarray(jax_flat.join(grads, self.layout, self.tree)), self.layout)

    def _params(self):
        dtype = jnp.bfloat16 if self.precision == "bfloat16" else None

        def build():
            return build_jax(self.plan, dtype=dtype, checkpoint=self.checkpoint, scan=self.scan)

        self.graph, params, self.rest = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
        self.layout, self.tree = jax_flat.flat_layout(params, self.shapes, lambda _: True)
        flat = jnp.asarray(pack(self.weights, self.layout, self.dtype))
        return jax_flat.split(flat, self.layout, self.tree)

    def _model(self, params):
        return nnx.merge(self.graph, params, self.rest)

    @contextmanager
    def _arithmetic(self):
        with jax.enable_x64(self.dtype is np.float64), jax.default_matmul_precision("highest"):
            yield

    def _ids(self, ids):
        return jnp.asarray(ids, jnp.int32)

    def _all(self, arrays):
        return None if arrays is None else {name: self._in(array) for name, array in arrays.items()}

    def _in(self, array):
        array = np.asarray(array)
        kinds = {"f": self.dtype, "b": np.bool_}
        return jnp.asarray(array, kinds.get(array.dtype.kind, np.int32))


TWINS = {"torch": Torch, "jax": Jax}
