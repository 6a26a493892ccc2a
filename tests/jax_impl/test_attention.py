"""On a CPU, attention over long sequences computes one head at a time, with the same result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_impl.layers import attention
from jax_impl.layers.dropout import Dropout

B, L, S, N, K = 2, 6, 5, 3, 4


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_heads_one_by_one_equal_heads_at_once(monkeypatch, masked, rate):
    random = np.random.default_rng(0)
    heads = [jnp.asarray(random.standard_normal((B, n, N, K)), jnp.float32) for n in (L, S, S)]
    mask = jnp.asarray([[True, False, True, True, False], [False] * S]) if masked else None
    noise = jnp.asarray(random.random((B, N, L, S)), jnp.float32)

    def squares(heads):
        y = attention.attend(*heads, mask=mask, dropout=Dropout(rate), noise=noise)
        return (y**2).sum(), y

    actual = {}
    for least in (L * S, L * S + 1):
        monkeypatch.setattr(attention, "_IN_TURN_FROM", least)
        gradient = jax.value_and_grad(squares, has_aux=True)
        assert ("scan" in str(jax.make_jaxpr(gradient)(heads))) == (least == L * S)
        actual[least] = gradient(heads)
    for ours, theirs in zip(*map(jax.tree.leaves, actual.values()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    if masked:
        assert not np.asarray(actual[L * S][0][1])[1].any()
