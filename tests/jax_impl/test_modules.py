"""Every network is an ordinary `nnx.Module`: transforms accept it, and modes and dtypes take effect."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dioscuri.errors import UserError
from jax_impl.families.methods import methods_of
from jax_impl.layers.dropout import Dropout, seed_dropout
from jax_impl.pretrained import build_model, model_of, weights_of
from jax_impl.samplers.noise import random_offsets, random_tokens
from tests.support.networks import NETWORKS, inputs, tiny_transformer

every_network = pytest.mark.parametrize("name", NETWORKS)
DROPOUT = ("model.hidden_dropout=0.5", "model.attention_dropout=0.3", "model.num_hidden_layers=1")


def made(name, *, hparams=None, seed=0):
    """The network in evaluation mode, with no weights at zero, as some initial
    ones are, and its arguments."""
    hparams, generator = hparams or NETWORKS[name](), np.random.default_rng(seed)
    first = methods_of(hparams).initial_parameters(seed)
    weights = {
        key: (value + 0.1 * generator.standard_normal(value.shape)).astype(np.float32)
        for key, value in first.items()
        if not key.startswith("discriminator.")
    }
    arguments = jax.tree.map(jnp.asarray, inputs(hparams, methods_of(hparams)))
    return model_of(hparams, weights), arguments


def products(function, *arguments):
    """Dtypes in the program's matrix products and convolutions."""
    seen = set()

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                seen.update(variable.aval.dtype.name for variable in equation.invars)
            for value in jax.tree.leaves(list(equation.params.values())):
                if hasattr(value, "jaxpr"):
                    look(value.jaxpr)

    look(jax.make_jaxpr(function)(*arguments).jaxpr)
    return seen


@every_network
def test_jit_and_grad_take_it(name):
    """The module itself is an argument of `jax.jit`, and its parameters one of `jax.grad`."""
    model, arguments = made(name)

    @jax.jit
    def gradient(model, *arguments):
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(params):
            output, _ = nnx.merge(graph, params, rest)(*arguments)
            return jnp.square(output).sum()

        return jax.value_and_grad(loss)(params)

    value, gradients = gradient(model, *arguments)
    assert jnp.isfinite(value)
    assert jax.tree.structure(gradients) == jax.tree.structure(nnx.state(model, nnx.Param))
    assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["classifier", "halton"])
def test_vmap_takes_it(name):
    model, arguments = made(name)

    @jax.jit
    def both(model, *arguments):
        batches = jax.tree.map(lambda x: jnp.stack([x, x]), arguments)
        return model(*arguments)[0], jax.vmap(lambda *one: model(*one)[0])(*batches)

    once, mapped = both(model, *arguments)
    for output in mapped:
        np.testing.assert_allclose(output, once, rtol=0, atol=1e-4 * float(jnp.abs(once).max()))


@every_network
def test_arithmetic_follows_the_weights(name):
    model, arguments = made(name)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    half = nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params), rest)
    assert products(lambda *given: model(*given)[0], *arguments) == {"float32"}
    with_half = products(lambda *given: half(*given)[0], *arguments)
    assert "bfloat16" in with_half


@pytest.mark.parametrize("name", ["classifier", "maskgit"])
def test_optimizers_of_nnx_take_it(name):
    model, arguments = made(name)
    optimizer = nnx.Optimizer(model, optax.sgd(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradient = nnx.value_and_grad(lambda model: jnp.square(model(*arguments)[0]).mean())(model)
        optimizer.update(model, gradient)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(4)]
    assert losses[-1] < losses[0]


@every_network
def test_first_values_are_drawn(name):
    """A network's weights also have the names and shapes of its options' table."""
    hparams = NETWORKS[name]()
    first, other = (weights_of(build_model(hparams, seed)) for seed in (0, 1))
    shapes = {
        key: shape
        for key, shape in methods_of(hparams).parameter_shapes().items()
        if not key.startswith("discriminator.")
    }
    assert {key: array.shape for key, array in first.items()} == shapes
    assert any(not np.array_equal(first[key], other[key]) for key in first)
    drawn = methods_of(hparams).initial_parameters(0)
    assert all(np.array_equal(first[key], drawn[key]) for key in first)


@pytest.mark.slow
def test_dropout_follows_the_mode():
    """For an architecture with every kind of dropout: attention, embeddings, and
    inside feed-forward layers."""
    model, arguments = made("maskgit", hparams=tiny_transformer("maskgit", *DROPOUT))
    expected = model(*arguments)[0]
    np.testing.assert_array_equal(model(*arguments)[0], expected)
    model.train()
    first, second = model(*arguments)[0], model(*arguments)[0]
    assert not np.array_equal(first, second)
    seed_dropout(model, 0)
    np.testing.assert_array_equal(model(*arguments)[0], first)
    quiet = nnx.view(model, deterministic=True)
    np.testing.assert_array_equal(quiet(*arguments)[0], expected)
    specs = methods_of(model.hparams).noise_specs("train_step", 2)
    noise = {
        spec.name: jnp.asarray(np.random.default_rng(0).random(spec.shape, np.float32))
        for spec in specs
        if spec.name.startswith("dropout.")
    }
    given = model(*arguments, noise)[0]
    model.eval()
    np.testing.assert_array_equal(model(*arguments, noise)[0], given)
    np.testing.assert_array_equal(model(*arguments)[0], expected)


def test_dropout_that_has_nothing_to_draw_from_says_so():
    layer = Dropout(0.5)
    np.testing.assert_array_equal(layer(jnp.ones(4)), 1)
    layer.train()
    with pytest.raises(UserError, match="has no random numbers"):
        layer(jnp.ones(4))


def test_whole_numbers_are_drawn_as_before_where_64_bits_are_on():
    key = jax.random.key(0)
    expected = random_tokens(key, (2, 8), 99), random_offsets(key, 5, 99)
    with jax.enable_x64(True):
        drawn = random_tokens(key, (2, 8), 99), random_offsets(key, 5, 99)
    jax.tree.map(np.testing.assert_array_equal, drawn, expected)
