"""Tokens without a grid, such as TiTok's: shards, orders, options, inputs and descriptions follow from the
length of the sequence."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri import torch as dio
from dioscuri.contract import check_options
from dioscuri.data.tokens import TokenWriter, open_tokens
from dioscuri.errors import UserError
from dioscuri.families.maskgit.halton import halton_order
from dioscuri.families.maskgit.logic import check_examples
from dioscuri.families.maskgit.transformers import plan_of
from dioscuri.families.token_models.modes.inpainting import unknown_tokens
from dioscuri.inputs import read_tokens
from dioscuri.library.describe import described
from jax_impl.samplers.halton import ranks_of_unknown as jax_ranks
from tests.host.test_run_maskgit import examples_of
from tests.support.tiny_maskgit import CODES, tiny
from torch_impl.samplers.halton import ranks_of_unknown as torch_ranks

LENGTH = 9
SEQUENCE = ("data.grid=0", f"data.sequence_length={LENGTH}")


def write_sequences(folder, n=20, length=LENGTH):
    """Shards of tokens (n, length), and the tokens."""
    tokens = np.random.default_rng(0).integers(0, CODES, (n, length))
    header = {"grid": [length], "codebook_size": CODES, "tokenizer": {"sha256": "none", "run": "tiny"}}
    labels = np.arange(n) % 10
    writer = TokenWriter(folder, header, [f"picture {i}" for i in range(n)], labels, shard_size=8)
    writer.add(tokens)
    writer.finish()
    return tokens


def test_shards_hold_sequences(tmp_path):
    expected = write_sequences(tmp_path / "tokens")
    tokens = open_tokens(tmp_path / "tokens")
    assert tokens.grid == (LENGTH,)
    np.testing.assert_array_equal(tokens.gather([3, 17]), expected[[3, 17]])
    check_examples(examples_of(tiny(*SEQUENCE), tokens))
    for options, message in (
        ((), f"are {LENGTH} of {CODES} codes, not 4x4 of {CODES}"),
        (("data.grid=0", "data.sequence_length=8"), f"are {LENGTH} of {CODES} codes, not 8 of {CODES}"),
    ):
        with pytest.raises(UserError, match=message):
            check_examples(examples_of(tiny(*options), tokens))


def test_halton_order_of_sequences_and_rectangles():
    """A sequence is visited in the van der Corput order, a rectangle everywhere once."""
    assert halton_order((8,)).tolist() == [4, 2, 6, 1, 5, 3, 7, 0]
    for shape in ((LENGTH,), (1, 5), (3, 7)):
        assert sorted(halton_order(shape)) == list(range(np.prod(shape)))


@pytest.mark.parametrize("shape", [(16, 16), (16, 24), (30, 8), (64,), (128,)])
def test_the_first_positions_of_the_halton_order_are_spread_evenly(shape):
    """Of any number of them, each corner block holds about its share: the worst error over all numbers and
    blocks of quarters is far below that of random orders."""
    place = [np.random.default_rng(seed).permutation(np.prod(shape)) for seed in range(10)]
    assert unevenness(halton_order(shape), shape) < 0.7 * np.mean([unevenness(p, shape) for p in place])


def unevenness(order, shape):
    """Discrepancy, in positions."""
    position, number = np.stack(np.unravel_index(order, shape), 1), np.arange(1, len(order) + 1)
    worst = 0
    for quarters in np.ndindex(*(4,) * len(shape)):
        inside = (position < (np.array(quarters) + 1) * np.array(shape) / 4).all(1)
        worst = max(worst, np.abs(np.cumsum(inside) - inside.mean() * number).max())
    return worst


def test_the_halton_order_of_squares_is_the_original_one():
    case = Path(__file__).parents[1] / "golden" / "cases" / "maskgit" / "halton_maskgit"
    with np.load(case / "outputs.npz") as recorded:
        for side in (4, 6, 8, 16, 24, 32):
            row, column = recorded[f"halton_order_{side}"].T
            np.testing.assert_array_equal(halton_order((side, side)), row * side + column)


def test_halton_ranks_follow_the_shape_in_both_twins():
    unknown = np.random.default_rng(1).random((3, 12)) < 0.6
    for shape in ((12,), (3, 4)):
        place = np.argsort(halton_order(shape))
        expected = np.array([[(row & (place < p)).sum() for p in place] for row in unknown])
        for ranks in (torch_ranks(torch.from_numpy(unknown), shape), jax_ranks(jnp.asarray(unknown), shape)):
            np.testing.assert_array_equal(np.asarray(ranks)[unknown], expected[unknown])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("data.sequence_length=9",), "sequence_length 9 is for tokens without a grid, but grid is 4"),
        (("data.grid=0",), "give a grid, or for tokens without a grid grid=0 and sequence_length"),
        ((*SEQUENCE, "loss.mask_contiguous_region_prob=0.5"), "mask_contiguous_region_prob needs a grid"),
        ((*SEQUENCE, "model.architecture=halton", "model.proj=2"), "needs a grid of tokens"),
        (
            (*SEQUENCE, "synthesis.synthesis_mode=inpainting", "synthesis.mask_path=mask.png"),
            "mask_path needs a grid of tokens",
        ),
        (
            (*SEQUENCE, "synthesis.synthesis_mode=inpainting", "synthesis.inpaint_box=[0, 5, 1, 5]"),
            "extends beyond the 1x9 tokens",
        ),
    ],
)
def test_options_that_need_a_grid(options, message):
    with pytest.raises(UserError, match=message):
        check_options(tiny(*options))


def test_the_middle_of_a_sequence_is_filled():
    for options, expected in (
        ((), [2, 3, 4, 5, 6]),
        (("synthesis.inpaint_box=[0, 7, 1, 2]", "synthesis.synthesis_mode=inpainting"), [7, 8]),
    ):
        hparams = tiny(*SEQUENCE, *options)
        assert np.flatnonzero(unknown_tokens(hparams, plan_of(hparams))).tolist() == expected


def test_sequences_are_read():
    tokens = np.arange(2 * LENGTH).reshape(2, LENGTH) % CODES
    np.testing.assert_array_equal(read_tokens(tokens, (LENGTH,), CODES), tokens)
    with pytest.raises(
        UserError, match=r"must be whole numbers \(N, 9\) from 0 to 15; got int64 \(1, 3, 3\)"
    ):
        read_tokens(tokens[:1].reshape(1, 3, 3), (LENGTH,), CODES)


@pytest.mark.parametrize("architecture", ["maskgit", "uvitbert", "halton"])
def test_a_model_of_sequences_samples_them(architecture):
    """With every sampler, from the interface, without a tokenizer."""
    model = dio.new(
        "maskgit",
        architecture=architecture,
        sequence_length=LENGTH,
        codebook_size=CODES,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_classes=3,
    )
    assert (model.grid, model.sequence_length) == (0, LENGTH)
    for sampler in ("confidence", "logits", "halton"):
        drawn = model.generate(classes=[0, 2], sampler=sampler, steps=3, decode=False, seed=1)
        assert drawn.shape == (2, LENGTH)
        assert drawn.max() < CODES
    assert described(model.hparams).facts["tokens"] == LENGTH
