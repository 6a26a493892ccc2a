"""A convolution's gradients in a loop on a CPU, which are written by hand, are those of XLA's convolution."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.extend.core import jaxprs_in_params

from jax_impl.layers.convolution import Conv, inside_loop
from tests.support.engines import make_engine

CASES = {
    "same": ((4, 6, 5, 3), (3, 3, 3, 2), "SAME"),
    "an even side": ((3, 6, 6, 2), (2, 4, 2, 3), "SAME"),
    "explicit": ((4, 7, 6, 2), (3, 2, 2, 4), ((2, 0), (1, 1))),
}


def arrays(*shapes):
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def xla(x, kernel, padding):
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def ours(x, kernel, padding):
    """Our layer with this kernel."""
    layer = Conv(*kernel.shape[2:], kernel.shape[:2], padding=padding, use_bias=False)
    layer.kernel = nnx.Param(kernel)
    return layer(x)


def ours_in_a_loop(x, kernel, padding):
    with inside_loop():
        return ours(x, kernel, padding)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_xla(case):
    """With respect to input and kernel, and differentiated once more."""
    shape, kernel_shape, padding = CASES[case]
    x, kernel = arrays(shape, kernel_shape)
    (weights,) = arrays(xla(x, kernel, padding).shape)

    def gradients(convolve):
        def loss(x, kernel):
            return (weights * convolve(x, kernel, padding) ** 2).sum()

        def penalty(x, kernel):
            return sum((gradient**2).sum() for gradient in jax.grad(loss, (0, 1))(x, kernel))

        return jax.jit(lambda *of: (jax.grad(loss, (0, 1))(*of), jax.grad(penalty, (0, 1))(*of)))(x, kernel)

    expected, computed = gradients(xla), gradients(ours_in_a_loop)
    for one, other in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_outside_loops_a_layer_has_forward_mode_derivatives():
    """As for a Hessian's product with a vector."""
    x, kernel, tangent = arrays((2, 5, 4, 3), (3, 3, 3, 2), (3, 3, 3, 2))

    def gradient(convolve):
        return jax.grad(lambda kernel: (convolve(x, kernel, "SAME") ** 4).sum())

    computed, expected = (jax.jvp(gradient(convolve), (kernel,), (tangent,))[1] for convolve in (ours, xla))
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("n", [1, 2])
def test_gradients_are_written_by_hand_in_the_micro_batches_of_a_trainer_only(n):
    trainer = make_engine("jax", f"train.accumulation_steps={n}").trainer
    x, kernel = arrays((4, 6, 5, 3), (3, 3, 3, 2))

    def gradient(kernel, x):
        def of_micro_batch(batch, _noise):
            return jax.grad(lambda kernel: (ours(batch["x"], kernel, "SAME") ** 2).sum())(kernel)

        return trainer.over_micro_batches(of_micro_batch, {"x": x}, {})

    def batch_axes(program):
        """The axis that each convolution takes for the batch: in XLA's gradient of a kernel, the channels."""
        for equation in program.eqns:
            if equation.primitive.name == "conv_general_dilated":
                yield equation.params["dimension_numbers"].lhs_spec[0]
            for inner in jaxprs_in_params(equation.params):
                yield from batch_axes(inner)

    axes = {*batch_axes(jax.make_jaxpr(gradient)(kernel, x).jaxpr)}
    assert axes == ({0, 3} if n == 1 else {0})
