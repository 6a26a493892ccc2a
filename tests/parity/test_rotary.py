"""In both twins, the hourglass's positions rotate the same channels as in the original."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri.families.sundae.model_options import Denoiser
from dioscuri.families.sundae.plan import Stack, angles
from jax_impl.layers import rotary as jax_rotary
from torch_impl.layers import rotary as torch_rotary

SIDE, BATCH, FREQUENCY = 3, 2, 8
TWINS = {
    "torch": lambda x, *tables: torch_rotary.rotate(torch.tensor(x), *map(torch.tensor, tables)).numpy(),
    "jax": lambda x, *tables: np.asarray(jax_rotary.rotate(jnp.asarray(x), *map(jnp.asarray, tables))),
}


def turned_as_in_the_original(x, channels):
    """x (B, L, N K), with heads not split: the first channels rotate with the row, as many with the column.

    Angles are repeated for both channels of a pair (a, b), which becomes (-b, a) in the second summand.
    """
    frequencies = np.pi * np.linspace(1, FREQUENCY / 2, channels // 2)
    axis = np.repeat(np.linspace(-1, 1, SIDE)[:, None] * frequencies, 2, 1)
    table = np.array([np.concatenate([row, column]) for row in axis for column in axis])
    first, rest = x[..., : 2 * channels], x[..., 2 * channels :]
    other = np.stack([-first[..., 1::2], first[..., ::2]], -1).reshape(first.shape)
    return np.concatenate([first * np.cos(table) + other * np.sin(table), rest], -1)


def turned(x, twin, heads, **options):
    """The same in a twin, in its layout (B, L, N, K)."""
    model = Denoiser(dim=1, depth=1, nb_heads=heads, dim_head=x.shape[-1] // heads, **options)
    table = angles(Stack(1, SIDE, FREQUENCY), model)
    split = x.reshape(*x.shape[:2], heads, -1)
    return TWINS[twin](split, *(f(table).astype(np.float32) for f in (np.cos, np.sin)))


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(BATCH, SIDE**2, 32)).astype(np.float32)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(
    ("heads", "rotary_emb_dim", "channels"), [(2, 0, 8), (2, 12, 12), (2, 16, 16), (4, 6, 6)]
)
def test_legacy_positions_rotate_the_first_channels_of_all_heads_together(
    x, twin, heads, rotary_emb_dim, channels
):
    actual = turned(x, twin, heads, rotary_emb_dim=rotary_emb_dim, legacy_positions=True)
    expected = turned_as_in_the_original(x, channels)
    np.testing.assert_allclose(actual.reshape(x.shape), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("rotary_emb_dim", "channels"), [(0, 8), (6, 6)])
def test_new_positions_rotate_the_first_channels_of_every_head(x, twin, rotary_emb_dim, channels):
    actual = turned(x, twin, 2, rotary_emb_dim=rotary_emb_dim)
    for head, part in enumerate(np.split(x, 2, -1)):
        expected = turned_as_in_the_original(part, channels)
        np.testing.assert_allclose(actual[:, :, head], expected, rtol=1e-5, atol=1e-6)
