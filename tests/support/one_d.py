"""TiTok of both twins, through the family's losses, as functions of numpy arrays, for recorded cases."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dioscuri.families.vqgan.training import parameter_table
from dioscuri.plans.parameters import shapes
from jax_impl.families.vqgan import TokenizerMethods as JaxMethods
from jax_impl.layers.quantizers import make_quantizer as jax_quantizer
from tests.support.tiny_vqgan import tiny
from tests.support.twin_models import JaxModel, arithmetic, bound
from torch_impl.families.vqgan import TokenizerMethods as TorchMethods
from torch_impl.layers.quantizers import make_quantizer as torch_quantizer

SCALARS = {"gumbel_temperature": 1.0}


def options_of(model, data, discriminator, loss):
    """Options of a run with these sections."""
    base = tiny()
    data = replace(base.data, **data)
    return replace(base, model=model, data=data, discriminator=discriminator, loss=loss)


def distance(x, made):
    """The substitute for the perceptual networks, (B,)."""
    return abs(x - made).mean((1, 2, 3))


class Twin:
    """The family's losses of recorded pictures in [0, 1], with canonical weights."""

    kind: type

    def __init__(self, hparams, weights, dtype=np.float32):
        self.hparams, self.weights, self.dtype = hparams, weights, dtype
        self.methods = methods = self.kind(hparams)
        self.shapes = shapes(parameter_table(hparams))
        methods._pictures = lambda batch: batch["image"]
        methods._distance = lambda _frozen: distance
        if hparams.model.decoder_output == "proxy_codes":
            # The codes are recorded, so that the other tokenizer is not read.
            methods._proxy_codes = lambda batch, _frozen: batch["proxy_codes"]

    def noise(self, batch):
        """Noise of training among the recorded arrays."""
        return {name: batch[name] for name in ("posterior",) if name in batch}

    def stages(self, batch):
        """Every stage on pictures, in training mode."""
        return self._run(self._stages, batch)

    def decode(self, indices, batch):
        """What indices (B, T) decode to."""
        return self._run(self._decode, {**batch, "indices": indices})["made"]

    def mode(self, batch):
        """What the mean of a Gaussian posterior decodes to."""
        return self._run(self._mode, batch)["made"]

    def losses(self, batch, buffers, *, adversarial):
        """`loss`, metrics, new buffers `new.<name>`, and gradients `grad/<name>`."""
        scalars = {**SCALARS, "adversarial": adversarial}
        return self._gradient(self._loss(self.methods.loss, scalars), batch, buffers)

    def critic(self, batch, buffers):
        """The same of the discriminator's loss."""
        scalars = {**SCALARS, "adversarial": True}
        return self._gradient(self._loss(self.methods.discriminator_loss, scalars), batch, buffers)

    def _run(self, function, batch):
        """The results of a function of model and batch, without gradients."""
        raise NotImplementedError

    def _gradient(self, loss, batch, buffers):
        """The second result of a function of model, batch and buffers, and gradients of the first one."""
        raise NotImplementedError

    def _loss(self, loss, scalars):
        def run(model, batch, buffers):
            value, metrics, new = loss(model, batch, self.noise(batch), scalars, buffers, {})
            return value, {"loss": value, **metrics, **{f"new.{name}": new[name] for name in new}}

        return run

    def _stages(self, model, batch):
        z = model.encode(batch["image"])
        quantised, text = model.quantise(z, self.noise(batch), train=True), self.methods._text(batch)
        logits = model.logits(quantised.codes, **text)
        made = model.decode(quantised.codes, **text)
        found = {
            "z": z,
            "codes": quantised.codes,
            "indices": quantised.indices,
            "logits": logits,
            "made": made,
        }
        if self.methods.critic is not None:
            found["logits_real"] = model.discriminator(batch["image"])[0]
            found["logits_fake"] = model.discriminator(made)[0]
        return found | {f"loss.{name}": loss for name, loss in quantised.losses.items()}

    def _mode(self, model, batch):
        return {"made": model.decode(model.quantise(model.encode(batch["image"])).codes)}

    def _decode(self, model, batch):
        return {"made": model.decode_indices(batch["indices"], **self.methods._text(batch))}


class Torch(Twin):
    """The PyTorch twin."""

    kind = TorchMethods

    def _model(self):
        return bound(self.methods.build(), self.weights, self.shapes, self.dtype)

    def _run(self, function, batch):
        with torch.no_grad():
            found = function(self._model(), self._in(batch))
            return {name: value.numpy() for name, value in found.items()}

    def _gradient(self, loss, batch, buffers):
        model = self._model()
        parameters = dict(model.named_parameters())
        value, found = loss(model, self._in(batch), self._in(buffers))
        grads = torch.autograd.grad(value, [*parameters.values()], materialize_grads=True)
        found |= {f"grad/{name}": grad for name, grad in zip(parameters, grads, strict=True)}
        return {name: tensor.detach().numpy() for name, tensor in found.items()}

    def _in(self, arrays):
        return {
            name: torch.from_numpy(array.astype(self.dtype if array.dtype.kind == "f" else array.dtype))
            for name, array in arrays.items()
        }


class Jax(Twin):
    """The JAX twin."""

    kind = JaxMethods

    def _model(self):
        return JaxModel(self.methods.build, self.shapes)

    def _run(self, function, batch):
        with arithmetic(self.dtype):
            model = self._model()
            run = jax.jit(lambda params, batch: function(model.merge(params), batch))
            found = run(model.params(self.weights, self.dtype), self._in(batch))
            return jax.tree.map(np.asarray, found)

    def _gradient(self, loss, batch, buffers):
        with arithmetic(self.dtype):
            model = self._model()

            def run(params, batch, buffers):
                return loss(model.merge(params), batch, buffers)

            grad = jax.jit(jax.grad(run, has_aux=True))
            params = model.params(self.weights, self.dtype)
            grads, found = grad(params, self._in(batch), self._in(buffers))
            return jax.tree.map(np.asarray, found) | model.canonical(grads, "grad/")

    def _in(self, arrays):
        return {
            name: jnp.asarray(array, self.dtype if array.dtype.kind == "f" else None)
            for name, array in arrays.items()
        }


TWINS = {"torch": Torch, "jax": Jax}


def quantised(twin, options, codebook, z, upstream=None, embed_prob=None):
    """What a codebook makes of vectors z (B, h, w, D); with `upstream`, in training: also losses, buffers,
    and gradients of the loss plus the sum of codes times `upstream`."""
    use = {"torch": _quantised_torch, "jax": _quantised_jax}[twin]
    return use(options, codebook, z, upstream, embed_prob)


def _named(made):
    losses = {"of_codes" if name == "codes" else name: loss for name, loss in made.losses.items()}
    return {"codes": made.codes, "indices": made.indices, **losses, **made.buffers}


def _quantised_torch(options, codebook, z, upstream, embed_prob):
    z = torch.from_numpy(z).requires_grad_()
    network: Any = torch_quantizer(options)
    network.embedding.weight.data = torch.from_numpy(codebook)
    if upstream is None:
        return {name: value.detach().numpy() for name, value in _named(network(z)).items()}
    made = network(z, {"embed_prob": torch.from_numpy(embed_prob)}, train=True)
    loss = made.losses["quantiser"] + (made.codes * torch.from_numpy(upstream)).sum()
    grads = torch.autograd.grad(loss, (z, network.embedding.weight))
    found = {**_named(made), "grad/z": grads[0], "grad/codebook": grads[1]}
    return {name: value.detach().numpy() for name, value in found.items()}


def _quantised_jax(options, codebook, z, upstream, embed_prob):
    model = JaxModel(lambda: jax_quantizer(options), {"embedding.weight": codebook.shape})
    params = model.params({"embedding.weight": codebook}, np.float32)
    if upstream is None:
        return jax.tree.map(np.asarray, _named(model.merge(params)(jnp.asarray(z))))

    def run(z, params):
        made = model.merge(params)(z, {"embed_prob": jnp.asarray(embed_prob)}, train=True)
        return made.losses["quantiser"] + (made.codes * upstream).sum(), _named(made)

    (of_z, of_codes), found = jax.grad(run, (0, 1), has_aux=True)(jnp.asarray(z), params)
    grads = {"grad/z": of_z, "grad/codebook": model.canonical(of_codes)["embedding.weight"]}
    return jax.tree.map(np.asarray, {**found, **grads})
