"""The pipeline: exact resume, sharding, epochs, augmentation and static shapes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dioscuri.data import pipeline
from dioscuri.data.picture_set import array_set
from dioscuri.data.pipeline import ShuffledPositions, evaluation_batches, training_batches
from dioscuri.data.randomness import binarise, coin_flips, fixed_permutation, permutation, words
from dioscuri.data.sources import open_datasets
from dioscuri.data.tokens import TokenWriter, open_tokens
from dioscuri.errors import UserError
from tests.support.data_options import make_options


def numbered(n, *, grey=False):
    """Pictures whose pixel (0, 0) is their index and whose other columns distinguish left from right."""
    pictures = np.zeros((n, 2, 3, 1), np.uint8)
    pictures[:, 0, 0, 0] = np.arange(n)
    pictures[:, 1, 0, 0] = 255
    if grey:
        pictures = np.random.default_rng(0).integers(0, 256, (n, 28, 28, 1), np.uint8)
    return array_set("numbered", pictures, range(n), binarise_on_read=grey)


RGB = make_options("custom", 3, 1)
DIGITS = make_options("binarized_mnist", 32, 1)


def take(batches, n):
    images = [next(batches)["image"] for _ in range(n)]
    batches.close()
    return np.stack(images)


def pictured_indices(images):
    """Indices of `numbered` pictures, whether mirrored or not."""
    return images[..., 0, :, 0].max(axis=-1)


@pytest.mark.parametrize(("options", "grey"), [(RGB, False), (DIGITS, True)])
def test_a_resumed_stream_continues_bit_for_bit(options, grey):
    pictures = numbered(10, grey=grey)
    whole = take(training_batches(pictures, options, batch_size=4), 9)
    for stop in (0, 1, 2, 3, 7):
        batches = training_batches(pictures, options, batch_size=4)
        for _ in range(stop):
            next(batches)
        state = json.loads(json.dumps(batches.state()))
        batches.close()
        # The saved seed overrides another one in the options.
        other = make_options(options.data.dataset_source, options.data.target_res, 1, seed=77)
        resumed = training_batches(pictures, other, batch_size=4, state=state)
        np.testing.assert_array_equal(take(resumed, 9 - stop), whole[stop:])


def test_the_state_is_small_json():
    batches = training_batches(numbered(10), RGB, batch_size=4)
    next(batches)
    assert batches.state() == {"seed": 5, "next_index": 1, "batch_size": 4}
    batches.close()


@pytest.mark.parametrize(("options", "grey"), [(RGB, False), (DIGITS, True)])
@pytest.mark.parametrize("process_count", [2, 4])
def test_the_shares_of_the_processes_make_up_the_global_batch(options, grey, process_count):
    pictures = numbered(10, grey=grey)
    whole = take(training_batches(pictures, options, batch_size=8), 5)
    shares = [
        take(
            training_batches(pictures, options, batch_size=8, process_index=r, process_count=process_count), 5
        )
        for r in range(process_count)
    ]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


def test_an_epoch_visits_every_picture_once_and_the_next_in_another_order():
    indices = pictured_indices(take(training_batches(numbered(10), RGB, batch_size=4), 5)).reshape(2, 10)
    for epoch in indices:
        assert sorted(epoch) == list(range(10))
    assert indices[0].tolist() != indices[1].tolist()


def test_what_cannot_be_read_is_reported_in_order_and_never_skipped(monkeypatch):
    whole = take(training_batches(numbered(10), RGB, batch_size=4), 3)
    read = pipeline._examples_at

    def failing(examples, indices, *rest, **options):
        if np.array_equal(indices, pictured_indices(whole[1])):
            raise UserError("a damaged picture")
        return read(examples, indices, *rest, **options)

    monkeypatch.setattr(pipeline, "_examples_at", failing)
    batches = training_batches(numbered(10), RGB, batch_size=4)
    next(batches)
    for _ in range(2):
        with pytest.raises(UserError, match="damaged"):
            next(batches)
    assert batches.state()["next_index"] == 1
    batches.close()


def test_another_seed_gives_another_order():
    streams = [
        take(training_batches(numbered(30), make_options("custom", 3, 1, seed=s), batch_size=30), 1)
        for s in (1, 2)
    ]
    assert (streams[0] != streams[1]).any()


@pytest.mark.parametrize("n", [1, 3])
def test_a_set_smaller_than_the_batch_is_repeated(n):
    indices = pictured_indices(take(training_batches(numbered(n), RGB, batch_size=8), 3)).ravel()
    counts = np.bincount(indices, minlength=n)
    assert counts.max() - counts.min() <= 1


def test_a_change_of_batch_size_continues_at_the_same_picture():
    small = take(training_batches(numbered(50), RGB, batch_size=4), 12).reshape(24, 2, 2, 3, 1)
    state = {"seed": 5, "next_index": 3, "batch_size": 4}
    larger = take(training_batches(numbered(50), RGB, batch_size=6, state=state), 2)
    np.testing.assert_array_equal(larger.reshape(12, 2, 3, 1), small.reshape(48, 2, 3, 1)[12:24])


@pytest.mark.parametrize("state", [{}, {"seed": 1}, {"seed": "x", "next_index": 0, "batch_size": 4}])
def test_a_damaged_state_is_refused(state):
    with pytest.raises(UserError, match="data state"):
        training_batches(numbered(3), RGB, batch_size=2, state=state)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="batch_size 5"):
        training_batches(numbered(3), RGB, batch_size=5, process_count=2)


def test_about_half_of_the_pictures_are_mirrored():
    images = take(training_batches(numbered(100), RGB, batch_size=100), 10).reshape(1000, 2, 3)
    mirrored = images[:, 1, 2] == 255
    assert ((images[:, 1, 0] == 255) != mirrored).all()
    assert 420 < mirrored.sum() < 580  # five standard deviations


@pytest.mark.parametrize(
    "options", [make_options("custom", 3, 1, random_horizontal_flip=False), make_options("digits", 3, 1)]
)
def test_digits_are_never_mirrored_nor_is_anything_with_the_option_off(options):
    images = take(training_batches(numbered(50), options, batch_size=50), 2)
    assert (images[:, :, 1, 0, 0] == 255).all()


def test_training_digits_are_resampled_in_every_epoch_and_padded():
    pictures = numbered(4, grey=True)
    images = take(training_batches(pictures, DIGITS, batch_size=4), 200)
    assert images.shape == (200, 4, 32, 32, 1)
    assert set(np.unique(images)) == {0, 255}
    inner = images[:, :, 2:30, 2:30]
    assert inner.sum() == images.sum(), "padding is not black"
    assert (inner[0] != inner[1]).any()
    # Each picture is sampled 200 times; the mean of a pixel has a standard error of at most 0.036.
    grey = pictures.gather(range(4)).mean(axis=0) / 255
    np.testing.assert_allclose(inner.mean(axis=(0, 1)) / 255, grey, atol=0.15)
    assert abs((inner.mean(axis=(0, 1)) / 255 - grey).mean()) < 0.01


@pytest.mark.parametrize("grey", [False, True])
def test_evaluation_yields_everything_once_in_static_shapes(grey):
    options = DIGITS if grey else RGB
    batches = list(evaluation_batches(numbered(10, grey=grey), options, batch_size=4))
    assert {batch["image"].shape for batch in batches} == {(4, 32, 32, 1) if grey else (4, 2, 3, 1)}
    valid = np.concatenate([batch["valid"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    assert valid.tolist() == [True] * 10 + [False] * 2
    assert index[valid].tolist() == list(range(10))
    if not grey:
        images = np.concatenate([batch["image"] for batch in batches])
        np.testing.assert_array_equal(pictured_indices(images), index)


def test_evaluation_draws_grey_pictures_the_same_way_whatever_the_batches():
    pictures = numbered(10, grey=True)
    once = next(evaluation_batches(pictures, DIGITS, batch_size=10))["image"]
    chosen = next(evaluation_batches(pictures, DIGITS, batch_size=3, indices=[7, 2, 3]))["image"]
    np.testing.assert_array_equal(chosen, once[[7, 2, 3]])


@pytest.mark.parametrize("limit", [1, 3, 10, 99])
def test_a_limit_spreads_over_the_set(limit):
    batches = list(evaluation_batches(numbered(10), RGB, batch_size=4, limit=limit))
    index = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert len(index) == len(set(index.tolist())) == min(limit, 10)
    assert index[0] == 0
    if limit == 3:
        assert index.tolist() == [0, 3, 6]


def test_nothing_to_evaluate_yields_nothing():
    assert not list(evaluation_batches(numbered(10), RGB, batch_size=4, indices=[]))


@given(
    n=st.integers(1, 40),
    size=st.integers(1, 12),
    processes=st.integers(1, 3),
    step=st.one_of(st.integers(0, 50), st.integers(10**9, 10**9 + 5)),
)
def test_any_step_is_found_without_those_before_it(n, size, processes, step):
    positions, indices = zip(
        *(ShuffledPositions(n, 3, size * processes, r, processes)[step] for r in range(processes)),
        strict=True,
    )
    positions, indices = np.concatenate(positions), np.concatenate(indices)
    assert positions.tolist() == list(range(step * size * processes, (step + 1) * size * processes))
    expected = [permutation(3, int(p) // n, n)[p % n] for p in positions]
    assert indices.tolist() == expected


def test_epochs_stay_complete_when_a_run_goes_on_with_another_number_of_processes():
    """No picture is met twice or left out, whatever the number of processes."""
    n, state, seen = 240, None, []
    for processes, batch_size, steps in ((64, 192, 2), (3, 96, 1), (48, 192, 1), (1, 120, 1), (64, 64, 3)):
        streams = [
            training_batches(
                numbered(n),
                RGB,
                batch_size=batch_size,
                process_index=index,
                process_count=processes,
                state=state,
            )
            for index in range(processes)
        ]
        images = [[next(stream)["image"] for stream in streams] for _ in range(steps)]
        seen += [pictured_indices(image) for of_step in images for image in of_step]
        (state,) = {tuple(stream.state().items()) for stream in streams}
        state = dict(state)
        for stream in streams:
            stream.close()
    order = np.concatenate(seen)
    assert len(order) > 4 * n - 20
    for epoch in range(len(order) // n):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(
    seed=st.integers(0, 2**64 - 1), first=st.integers(0, 10**12), count=st.integers(0, 9), n=st.integers(1, 9)
)
def test_words_depend_on_seed_stream_and_position_only(seed, first, count, n):
    positions = first + np.arange(count)
    together = words(seed, "train", positions, n)
    backwards = words(seed, "train", positions[::-1], n)
    np.testing.assert_array_equal(together, backwards[::-1])
    assert len(np.unique(together)) == together.size, "positions share numbers"
    assert not np.isin(words(seed, "test", positions, n), together).any()


def test_the_streams_are_fixed_for_ever():
    """Saved runs and published numbers depend on these values."""
    assert words(420, "train", np.array([3]), 2).tolist() == [[7291226190650580516, 11075298988059377712]]
    assert permutation(420, 1, 8).tolist() == [0, 5, 1, 3, 7, 4, 6, 2]
    assert coin_flips(420, np.arange(8)).astype(int).tolist() == [1, 0, 1, 0, 0, 1, 0, 0]
    grey = np.full((1, 2, 3, 1), 128, np.uint8)
    assert binarise(grey, 420, "test", np.array([9])).ravel().tolist() == [255, 255, 0, 255, 0, 255]
    assert fixed_permutation(6).tolist() == [0, 5, 4, 2, 1, 3]


def token_set(folder, n=10):
    """Token shards in which a picture's first token is its index."""
    header = {"grid": [2, 3], "codebook_size": 16, "tokenizer": {}}
    writer = TokenWriter(folder, header, [f"picture {i}" for i in range(n)], np.arange(n) * 2, shard_size=4)
    tokens = np.arange(6) + np.zeros((n, 1), int)
    tokens[:, 0] = np.arange(n)
    writer.add(tokens.reshape(n, 2, 3)[writer.n_pictures :])
    writer.finish()
    return open_tokens(folder)


def test_tokens_come_in_rows_with_their_labels(tmp_path):
    options = make_options("tokens", 8, 1, labels=True)
    batches = training_batches(token_set(tmp_path), options, batch_size=4)
    seen = [next(batches) for _ in range(5)]
    state = batches.state()
    following = next(batches)
    batches.close()
    for batch in seen:
        assert set(batch) == {"tokens", "label"}
        assert (batch["tokens"].dtype, batch["tokens"].shape) == (np.int32, (4, 6))
        assert (batch["label"].dtype, batch["label"].shape) == (np.int32, (4,))
        np.testing.assert_array_equal(batch["label"], 2 * batch["tokens"][:, 0])
        np.testing.assert_array_equal(batch["tokens"][:, 1:], np.tile(np.arange(1, 6), (4, 1)))
    firsts = np.concatenate([batch["tokens"][:, 0] for batch in seen])
    assert sorted(firsts[:10]) == sorted(firsts[10:]) == list(range(10))
    resumed = training_batches(token_set(tmp_path), options, batch_size=4, state=state)
    np.testing.assert_array_equal(next(resumed)["tokens"], following["tokens"])
    resumed.close()

    evaluation = list(evaluation_batches(token_set(tmp_path), options, batch_size=4))
    assert [batch["valid"].sum() for batch in evaluation] == [4, 4, 2]
    assert set(evaluation[0]) == {"tokens", "label", "index", "valid"}
    np.testing.assert_array_equal(evaluation[1]["tokens"][:, 0], [4, 5, 6, 7])


def test_pictures_have_their_labels_if_they_are_requested():
    pictures = array_set("numbered", numbered(10).gather(range(10)), range(10), np.arange(10, dtype=np.uint8))
    batches = training_batches(pictures, make_options("custom", 3, 1, labels=True), batch_size=4)
    batch = next(batches)
    batches.close()
    np.testing.assert_array_equal(batch["label"], pictured_indices(batch["image"]))
    plain = training_batches(pictures, RGB, batch_size=4)
    assert set(next(plain)) == {"image"}
    plain.close()


def test_labels_that_are_not_there_are_missed_at_once():
    options = make_options("photos", 32, 3, labels=True)
    with pytest.raises(UserError, match=r"\[data\] labels is True, but the train pictures of 'photos'"):
        _ = open_datasets(options).train


def test_token_shards_are_a_source(tmp_path):
    token_set(tmp_path / "train")
    options = make_options("tokens", 8, 1, train_data_path=str(tmp_path / "train"))
    assert len(open_datasets(options).train) == 10
    with pytest.raises(UserError, match=r"\[data\] val_data_path is empty"):
        _ = open_datasets(options).validation
