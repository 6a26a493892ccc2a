"""The entropy coder, its codes of latents and levels, and the file: without a network."""

import io

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, ndtr

from dioscuri.cli import decompress
from dioscuri.compression.archive import Reader, Writer, check_start
from dioscuri.compression.latents import (
    MAX_BITS,
    Normal,
    medians,
    pop_posterior,
    pop_prior,
    push_posterior,
    push_prior,
)
from dioscuri.compression.levels import Scale, pop_levels, push_levels
from dioscuri.compression.rans import LOW, Coder, Inconsistent, pack_heads, unpack_heads
from dioscuri.compression.words import Exhausted, Words, random_words
from dioscuri.errors import UserError

U = np.uint64


def numbers(*values):
    return np.array(values, U)


def coder(lanes=8, seed=1, capacity=64):
    made = Coder(Words(io.BytesIO(), 0, seed=seed, capacity=capacity))
    made.resize(lanes)
    return made


def content(message):
    """All of a message."""
    copy = message.words.pop(len(message.words))
    message.words.push(copy)
    return message.heads.tolist(), copy.tolist()


def length(message):
    """Bits of a message without the borrowed ones."""
    return 32 * (len(message.words) - message.words.borrowed) + np.log2(message.heads.astype(float)).sum()


def test_the_coder_computes_the_numbers_of_the_published_one():
    message = Coder(Words(io.BytesIO(), 0, seed=None), numbers(LOW))
    pushes = [(0, 1, 8), (200, 56, 8), (3, 5, 4), (1000, 3, 16), (0, 65535, 16), (7, 9, 24), (5, 1, 31)]
    heads = []
    for symbol in pushes:
        message.push(*map(numbers, symbol))
        heads.append(int(message.heads[0]))
    assert heads == [
        *(549755813888, 2513169435088, 8042142192278, 175683276904334314),
        *(175685957659303480, 76252580937737, 38124277202949),
    ]
    assert message.words.pop(2).tolist() == [2588843576, 4026531849]


@st.composite
def intervals(draw):
    """Starts, frequencies and bits of up to 40 symbols, rare and certain ones among them."""
    symbols = []
    for _ in range(draw(st.integers(1, 40))):
        bits = draw(st.integers(0, 31))
        frequency = draw(st.one_of(st.just(1), st.just(2**bits), st.integers(1, 2**bits)))
        symbols.append((draw(st.integers(0, 2**bits - frequency)), frequency, bits))
    return [numbers(*column) for column in zip(*symbols, strict=True)]


@given(intervals(), st.integers(1, 9), st.integers(0, 2**32))
def test_what_is_pushed_is_popped_whatever_it_is(symbols, lanes, seed):
    message = coder(lanes, seed, capacity=4)
    before = content(message)
    start, frequency, bits = symbols
    message.push(start, frequency, bits)

    def find(place, number):
        assert (number >= start[place]).all()
        assert (number - start[place] < frequency[place]).all()
        return start[place], start[place], frequency[place]

    assert (message.pop(bits, find) == start).all()
    assert content(message) == before
    message.resize(0)
    check_start(message, seed, message.words.borrowed)


def test_words_that_do_not_fit_into_memory_lie_in_the_file():
    words, plain, rng = Words(io.BytesIO(b"head"), 4, seed=3, capacity=8), [], np.random.default_rng(0)
    for _ in range(300):
        if rng.random() < 0.6:
            new = rng.integers(0, 2**32, rng.integers(0, 20), np.uint32)
            words.push(new)
            plain += new.tolist()
        else:
            n = int(rng.integers(0, min(len(plain), 20) + 1))
            assert words.pop(n).tolist() == plain[len(plain) - n :]
            del plain[len(plain) - n :]
    assert len(words) == len(plain) > 100
    assert words.borrowed == 0
    assert len(words._memory) < 64
    words.pop(len(plain))
    assert words.pop(3).tolist() == random_words(3, 0, 3)[::-1].tolist()
    with pytest.raises(Exhausted):
        Words(io.BytesIO(), 0, seed=None).pop(1)


@given(st.lists(st.integers(2**31, 2**63 - 1), max_size=20))
def test_heads_are_packed_without_loss(heads):
    packed = pack_heads(np.array(heads, U))
    assert unpack_heads(packed, len(heads)).tolist() == heads
    assert 8 * len(packed) <= sum(head.bit_length() + 4 for head in heads) + 8
    with pytest.raises(Inconsistent):
        unpack_heads(packed, len(heads) + 1)


def normals(n, spread, seed):
    rng = np.random.default_rng(seed)
    prior = Normal(rng.normal(size=n), np.exp(rng.normal(size=n) * spread))
    posterior = Normal(
        prior.mean + rng.normal(size=n) * prior.std * spread,
        prior.std * np.exp(rng.normal(size=n) * spread - 1),
    )
    return prior, posterior, rng.integers(1, MAX_BITS + 1, n).astype(U)


@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0])
def test_latents_come_back_with_the_bits_that_chose_them(spread):
    given = normals(500, spread, 4)
    message = coder()
    before = content(message)
    bins = pop_posterior(message, *given)
    push_prior(message, bins, given[2])
    assert (pop_prior(message, given[2]) == bins).all()
    push_posterior(message, bins, *given)
    kept = message.words.borrowed - 8
    assert message.heads.tolist() == before[0]
    assert (message.words.pop(kept) == random_words(1, 8, kept)[::-1]).all()


def test_random_bits_draw_latents_from_the_posterior():
    n = 20_000
    bits = np.full(n, 12, U)
    prior, posterior = Normal(np.zeros(n), np.ones(n)), Normal(np.full(n, 0.7), np.full(n, 0.2))
    bins = pop_posterior(coder(64, capacity=2**14), prior, posterior, bits)
    uniform = np.sort(ndtr((medians(bins, prior, bits) - 0.7) / 0.2))
    assert np.abs(uniform - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)  # Kolmogorov, 0.1 %


def test_latents_cost_their_divergence():
    n, bits = 20_000, np.full(20_000, 10, U)
    prior, posterior = Normal(np.zeros(n), np.ones(n)), Normal(np.full(n, 0.5), np.full(n, 0.3))
    message = coder(64, capacity=2**14)
    start = length(message)
    push_prior(message, pop_posterior(message, prior, posterior, bits), bits)
    kl = (0.5 * (0.3**2 + 0.5**2 - 1) - np.log(0.3)) / np.log(2)
    assert (length(message) - start) / n == pytest.approx(kl, rel=0.02)


SCALE = Scale(256, -1.0, 2 / 255)


def mixtures(shape, M=5, seed=0, coupled=False):
    rng, parts = np.random.default_rng(seed), (*shape, M)
    parameters = {
        "logits": rng.normal(size=(*shape[:-1], M)).astype(np.float32),
        "means": rng.uniform(-1.1, 1.1, parts).astype(np.float32),
        "inverse_scales": np.exp(rng.normal(size=parts) * 2 + 3).astype(np.float32),
    }
    if coupled:
        parameters["coefficients"] = np.tanh(rng.normal(size=parts)).astype(np.float32)
    return parameters


def log_probability(x, parameters):
    """Of levels (n, C), by the sums of Salimans et al. 2017 as they stand, in bits."""
    value = SCALE.value(x)
    total = np.log(np.exp(parameters["logits"]) / np.exp(parameters["logits"]).sum(-1, keepdims=True))
    for channel in range(x.shape[-1]):
        mean, inverse = (parameters[name][:, channel].astype(float) for name in ("means", "inverse_scales"))
        if channel and "coefficients" in parameters:
            first = channel * (channel - 1) // 2
            for before in range(channel):
                mean = mean + parameters["coefficients"][:, first + before] * value[:, before, None]
        edges = [value[:, channel, None] + side / 255 for side in (-1, 1)]
        low, high = (expit((edge - mean) * inverse) for edge in edges)
        low = np.where(x[:, channel, None] == 0, 0, low)
        high = np.where(x[:, channel, None] == 255, 1, high)
        total = total + np.log(np.maximum(high - low, 1e-300))
    return np.log2(np.exp(total).sum(-1))


@pytest.mark.parametrize(("channels", "coupled"), [(1, False), (2, False), (3, True)])
def test_levels_cost_their_probability(channels, coupled):
    shape, rng = (4000, channels), np.random.default_rng(1)
    parameters = mixtures(shape, coupled=coupled)
    message = coder(32, capacity=2**14)
    drawn = pop_levels(message, parameters, SCALE, shape)  # random bits are samples
    ideal = -log_probability(drawn.astype(int), parameters).sum()
    start = length(message)
    push_levels(message, drawn, parameters, SCALE)
    assert length(message) - start == pytest.approx(ideal, rel=2e-3)
    anything = rng.choice([0, 1, 128, 254, 255], shape).astype(np.uint8)
    push_levels(message, anything, parameters, SCALE)
    assert (pop_levels(message, parameters, SCALE, shape) == anything).all()


def test_black_and_white_cost_their_probability():
    logits = np.random.default_rng(0).normal(size=(3000, 1)) * 3
    message, scale = coder(32, capacity=2**14), Scale(2, -1.0, 2.0)
    drawn = pop_levels(message, {"logits": logits}, scale, logits.shape)
    ideal = -np.log2(expit(np.where(drawn == 1, logits, -logits))).sum()
    start = length(message)
    push_levels(message, drawn, {"logits": logits}, scale)
    assert length(message) - start == pytest.approx(ideal, rel=2e-3)


def test_another_coder_needs_as_many_bits():
    """The package constriction (Bamler 2022), by its tables of probabilities."""
    shape = (3000, 1)
    parameters = mixtures(shape, seed=5)
    message = coder(32, capacity=2**14)
    drawn = pop_levels(message, parameters, SCALE, shape)
    start = length(message)
    push_levels(message, drawn, parameters, SCALE)
    every = np.stack([log_probability(np.full(shape, v), parameters) for v in range(256)], -1)
    table = np.exp2(every) / np.exp2(every).sum(-1, keepdims=True)
    other = constriction.stream.stack.AnsCoder()
    other.encode_reverse(
        drawn[:, 0].astype(np.int32), constriction.stream.model.Categorical(perfect=False), table
    )
    assert length(message) - start == pytest.approx(other.num_valid_bits(), rel=2e-3)


def write(n=3, header=None):
    file = io.BytesIO()
    writer = Writer(file, header or {"name": "x"}, seed=5, capacity=8)
    writer.coder.resize(4)
    pictures = np.arange(n * 12, dtype=np.uint8).reshape(n, 2, 2, 3)
    writer.coder.push(numbers(*range(100)), np.full(100, 1, U), np.full(100, 9, U))
    writer.batches.add(pictures)
    return file, writer, pictures


def test_a_file_holds_what_was_written():
    file, writer, _ = write(header={"bits": [[3]], "where": "a"})
    sizes = writer.finish()
    assert sizes["bytes"] == len(file.getvalue())
    file.seek(0)
    reader = Reader(file, "a.dio", capacity=8)
    assert reader.header == {"bits": [[3]], "where": "a"}
    assert (reader.batches.runs, reader.checksum) == ([[3, 1]], writer.batches.checksum)
    popped = reader.coder.pop(np.full(100, 9, U), lambda _, number: (number, number, np.ones_like(number)))
    assert popped.tolist() == list(range(100))
    reader.coder.resize(0)
    check_start(reader.coder, 5, reader.borrowed)


def test_a_file_says_that_it_is_incomplete():
    file, _, _ = write()
    file.seek(0)
    with pytest.raises(UserError, match=r"a\.dio is incomplete: its compression was interrupted"):
        Reader(file, "a.dio")


@given(st.data())
@settings(max_examples=60)
def test_damage_is_never_read(data):
    file, writer, _ = write()
    writer.finish()
    whole = file.getvalue()
    place, kind = (
        data.draw(st.integers(8, len(whole) - 1)),
        data.draw(st.sampled_from(["bit", "cut", "more"])),
    )
    if kind == "bit":
        damaged = (
            whole[:place] + bytes([whole[place] ^ 1 << data.draw(st.integers(0, 7))]) + whole[place + 1 :]
        )
    else:
        damaged = whole[:place] if kind == "cut" else whole + whole[place:]
    with pytest.raises(UserError, match=r"^a\.dio is damaged or truncated"):
        Reader(io.BytesIO(damaged), "a.dio")


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"\x89PNG\r\n\x1a\n0000", "is not a .dio file")]
)
def test_other_files_are_named(content, says):
    with pytest.raises(UserError, match=says):
        Reader(io.BytesIO(content), "a.dio")


@pytest.mark.parametrize(
    "header", [{"name": "x"}, {"twin": "tf", "where": "a"}, {"twin": "torch", "where": 3}]
)
def test_a_file_that_names_no_model_is_damaged(tmp_path, header):
    file, writer, _ = write(header=header)
    writer.finish()
    (tmp_path / "a.dio").write_bytes(file.getvalue())
    with pytest.raises(UserError, match=r"a\.dio is damaged or truncated"):
        decompress.main([str(tmp_path / "a.dio"), str(tmp_path / "pictures")])
