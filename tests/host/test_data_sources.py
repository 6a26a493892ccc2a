"""Sources: correct pixels, fixed and disjoint splits, and clear errors."""

import gzip
import pickle

import numpy as np
import pytest
import sklearn.datasets
import sklearn.utils

from dioscuri.data import open_datasets
from dioscuri.data.descriptors import DESCRIPTORS
from dioscuri.data.embedded import PHOTOGRAPHS, crop_corners
from dioscuri.data.idx import read_idx, write_idx
from dioscuri.data.sources import OPENERS
from dioscuri.errors import UserError
from tests.support.data_options import idx_bytes, make_options, paths, write_mnist

SPLITS = ("train", "validation", "test")


def everything(picture_set):
    return picture_set.gather(range(len(picture_set)))


def test_every_described_source_can_be_opened():
    assert OPENERS.keys() == DESCRIPTORS.keys()


def test_digits_are_split_completely_and_without_overlap():
    data = open_datasets(make_options("digits", 8, 1))
    keys = {split: set(getattr(data, split).keys) for split in SPLITS}
    assert keys["test"] == {f"image_{i}" for i in range(5, 1797, 6)}
    assert sum(map(len, keys.values())) == len(set.union(*keys.values())) == 1797
    assert len(keys["validation"]) == 149


def test_digits_keep_their_levels_under_four_bits():
    data = open_datasets(make_options("digits", 8, 1))
    original = sklearn.datasets.load_digits()
    pictures = everything(data.test)
    assert pictures.dtype == np.uint8
    assert pictures.shape == (299, 8, 8, 1)
    np.testing.assert_array_equal(pictures[..., 0] // 16, np.minimum(original.images[5::6], 15))
    np.testing.assert_array_equal(pictures // 16 * 16, pictures)
    np.testing.assert_array_equal(data.test.labels, original.target[5::6])


@pytest.mark.parametrize("side", [8, 32, 37])
@pytest.mark.parametrize("size", [(512, 512), (300, 451), (872, 1000)])
def test_crops_of_photographs_share_no_pixel_between_splits(size, side):
    covered = {}
    for split in SPLITS:
        covered[split] = np.zeros(size, bool)
        for y, x in crop_corners(size, side, split):
            window = covered[split][y : y + side, x : x + side]
            assert window.shape == (side, side), "a crop reaches over the edge"
            assert split == "train" or not window.any(), "evaluation crops overlap"
            window[:] = True
        assert covered[split].any()
    assert (np.sum([covered[split] for split in SPLITS], axis=0) <= 1).all()


def test_photos_are_the_pixels_of_the_photographs():
    data = open_datasets(make_options("photos", 32, 3))
    assert len(data.train) > 5000
    assert len(set(data.train.keys)) == len(data.train)
    assert {key.split("_y")[0] for key in data.test.keys} == {name.split(".")[0] for name in PHOTOGRAPHS}
    from skimage.data import astronaut

    index = data.test.keys.index("astronaut_y0224_x0064")
    np.testing.assert_array_equal(data.test.gather([index])[0], astronaut()[224:256, 64:96])


def test_photos_refuse_a_size_without_test_crops():
    with pytest.raises(UserError, match="too large"):
        _ = open_datasets(make_options("photos", 512, 3)).test


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_splits_the_test_file_as_scikit_learn_shuffles_it(tmp_path, packed):
    train, test = write_mnist(tmp_path / "mnist", 30, 40, packed=packed)
    data = open_datasets(make_options("binarized_mnist", 32, 1, dataset_path=str(tmp_path)))
    order = sklearn.utils.shuffle(np.arange(40), random_state=101)
    assert list(data.validation.keys) == [f"image_{i}" for i in sorted(order[:20])]
    assert list(data.test.keys) == [f"image_{i}" for i in sorted(order[20:])]
    np.testing.assert_array_equal(data.test.labels, np.sort(order[20:]) % 10)
    np.testing.assert_array_equal(everything(data.train)[..., 0], train)
    assert data.train.binarise_on_read
    assert not data.test.binarise_on_read
    drawn = everything(data.test)[..., 0]
    assert set(np.unique(drawn)) == {0, 255}
    grey = test[np.sort(order[20:])]
    assert (drawn[grey == 0] == 0).all()
    assert (drawn[grey == 255] == 255).all()
    # 15,680 draws: the mean's standard error is 0.003.
    assert abs(drawn.mean() - grey.mean()) / 255 < 0.02


def test_binarised_digits_are_the_same_in_every_run(tmp_path):
    write_mnist(tmp_path / "mnist", 30, 40)
    first, second = (
        open_datasets(make_options("binarized_mnist", 32, 1, seed=seed, dataset_path=str(tmp_path)))
        for seed in (1, 2)
    )
    np.testing.assert_array_equal(everything(first.test), everything(second.test))
    np.testing.assert_array_equal(everything(first.validation), everything(second.validation))


def test_mnist10k_holds_out_validation_digits_and_keeps_its_test_file(tmp_path):
    write_mnist(tmp_path / "mnist10k", 90, 10)
    data = open_datasets(make_options("mnist10k", 32, 1, dataset_path=str(tmp_path)))
    assert list(data.test.keys) == [f"image_{i}" for i in range(10)]
    assert len(data.validation) == 5
    assert len(data.train) == 85
    assert not set(data.train.keys) & set(data.validation.keys)


@pytest.mark.parametrize(
    ("grey", "binary"), [("mnist_grey", "binarized_mnist"), ("mnist10k_grey", "mnist10k")]
)
def test_grey_digits_are_those_of_the_binarised_splits(tmp_path, grey, binary):
    folder = "mnist10k" if "10k" in grey else "mnist"
    files = write_mnist(tmp_path / folder, 36, 20)
    data = open_datasets(make_options(grey, 28, 1, dataset_path=str(tmp_path)))
    other = open_datasets(make_options(binary, 32, 1, dataset_path=str(tmp_path)))
    for split in SPLITS:
        actual, expected = getattr(data, split), getattr(other, split)
        assert list(actual.keys) == list(expected.keys)
        np.testing.assert_array_equal(actual.labels, expected.labels)
        assert not actual.binarise_on_read
    of_test = files[1][[int(key.removeprefix("image_")) for key in data.test.keys]]
    np.testing.assert_array_equal(everything(data.test)[..., 0], of_test)
    assert len(np.unique(of_test)) > 2


@pytest.mark.parametrize(("resolution", "side"), [(14, 2), (7, 4)])
def test_grey_digits_are_averaged_to_smaller_ones(tmp_path, resolution, side):
    _, test = write_mnist(tmp_path / "mnist10k", 36, 20)
    data = open_datasets(make_options("mnist10k_grey", resolution, 1, dataset_path=str(tmp_path)))
    rows, columns = np.arange(0, 28, side), np.arange(0, 28, side)
    sums = np.add.reduceat(np.add.reduceat(test.astype(np.int64), rows, axis=1), columns, axis=2)
    actual = everything(data.test)[..., 0]
    assert actual.shape == (20, resolution, resolution)
    assert np.abs(actual - sums / side**2).max() <= 0.5


def test_idx_files_round_trip_and_equal_arrays_give_equal_files(tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (3, 4, 5), np.uint8)
    for name in ("a.gz", "b.gz"):
        write_idx(tmp_path / name, array)
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), array)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def damaged_idx_files():
    sound = idx_bytes(np.random.default_rng(6).integers(0, 256, (2, 28, 28), np.uint8))
    packed = gzip.compress(sound)
    return {
        "truncated": (sound[:-1], "do not fill"),
        "too long": (sound + b"\0", "do not fill"),
        "short header": (sound[:9], "ends inside"),
        "empty": (b"", "not an idx"),
        "floats": (b"\0\0\x0d\x01" + sound[4:], "not an idx"),
        "huge": (b"\0\0\x08\x03" + b"\xff" * 12, "claims"),
        "cut gzip": (packed[:-12], "cannot be read"),
        "broken gzip": (packed[:-9] + b"\0" * 9, "cannot be read"),
    }


@pytest.mark.parametrize("case", damaged_idx_files())
def test_damaged_idx_files_are_named(tmp_path, case):
    data, message = damaged_idx_files()[case]
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{path.name}.*{message}"):
        read_idx(path)


def test_missing_mnist_tells_how_to_get_it(tmp_path):
    data = open_datasets(make_options("mnist10k", 32, 1, dataset_path=str(tmp_path)))
    with pytest.raises(UserError, match=r"download_and_preprocess\.sh mnist10k"):
        _ = data.train


def write_cifar(folder, n):
    generator = np.random.default_rng(2)
    folder.mkdir(parents=True)
    records = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        records[name] = generator.integers(0, 256, (n, 3073), np.uint8)
        records[name][:, 0] %= 10
        records[name].tofile(folder / f"{name}.bin")
    return records


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_cifar10_reads_the_binary_version(tmp_path, inner):
    records = write_cifar(tmp_path / "cifar-10" / inner, 6)
    data = open_datasets(make_options("cifar-10", 32, 3, dataset_path=str(tmp_path)))
    assert [len(getattr(data, split)) for split in SPLITS] == [30, 3, 3]
    third = records["data_batch_1"][2]
    np.testing.assert_array_equal(data.train.gather([2])[0], third[1:].reshape(3, 32, 32).transpose(1, 2, 0))
    assert data.train.labels[2] == third[0]
    order = sklearn.utils.shuffle(np.arange(6), random_state=101)
    assert list(data.test.keys) == [f"image_{i}" for i in sorted(order[3:])]


def test_cifar10_refuses_pickles_and_other_files(tmp_path):
    options = make_options("cifar-10", 32, 3, dataset_path=str(tmp_path))
    folder = tmp_path / "cifar-10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(UserError, match=r"pickle.*cifar-10-binary\.tar\.gz"):
        _ = open_datasets(options).train
    (tmp_path / "cifar-10" / "test_batch.bin").write_bytes(b"\0" * 3000)
    with pytest.raises(UserError, match="not whole records"):
        _ = open_datasets(options).test
    (tmp_path / "cifar-10" / "test_batch.bin").write_bytes(b"\x63" * 3073)
    with pytest.raises(UserError, match="label 99"):
        _ = open_datasets(options).test


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_imagenet_reads_sorted_parts(tmp_path, save):
    generator = np.random.default_rng(3)
    parts = [generator.integers(0, 256, (n, 3 * 4 * 4), np.uint8) for n in (3, 2, 4)]
    for name, part in zip("abc", parts, strict=True):
        save(tmp_path / f"train_data_batch_{name}.npz", data=part, labels=np.arange(len(part)))
    train = open_datasets(make_options("imagenet", 4, 3, **paths(tmp_path))).train
    expected = np.concatenate(parts).reshape(-1, 3, 4, 4).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(everything(train), expected)
    np.testing.assert_array_equal(train.gather([8, 0, 4, 4]), expected[[8, 0, 4, 4]])
    assert train.keys[4] == "image_4"


def imagenet_faults():
    return {
        "wrong size": ({"data": np.zeros((2, 75), np.uint8)}, "needs uint8"),
        "wrong type": ({"data": np.zeros((2, 48))}, "needs uint8"),
        "no data": ({"images": np.zeros((2, 48), np.uint8)}, "no array 'data'"),
        "objects": ({"data": np.array([{}, {}])}, "objects"),
        "empty": ({"data": np.zeros((0, 48), np.uint8)}, "no pictures"),
    }


@pytest.mark.parametrize("case", imagenet_faults())
def test_faulty_imagenet_parts_are_named(tmp_path, case):
    arrays, message = imagenet_faults()[case]
    np.savez(tmp_path / "part.npz", **arrays)
    with pytest.raises(UserError, match=message):
        _ = open_datasets(make_options("imagenet", 4, 3, **paths(tmp_path))).train


def test_broken_imagenet_archive_is_named(tmp_path):
    (tmp_path / "part.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"part\.npz"):
        _ = open_datasets(make_options("imagenet", 4, 3, **paths(tmp_path))).train


def test_npy_is_memory_mapped_and_may_be_a_folder_of_shards(tmp_path):
    pictures = np.random.default_rng(4).integers(0, 256, (7, 5, 5, 3), np.uint8)
    np.save(tmp_path / "all.npy", pictures)
    (tmp_path / "shards").mkdir()
    for number, part in enumerate(np.split(pictures, [2, 6])):
        np.save(tmp_path / "shards" / f"{number}.npy", part)
    for path in (tmp_path / "all.npy", tmp_path / "shards"):
        train = open_datasets(make_options("npy", 5, 3, **paths(path))).train
        assert all(isinstance(array, np.memmap) for array in train.read.arrays)
        np.testing.assert_array_equal(train.gather([6, 1, 2]), pictures[[6, 1, 2]])
        train.gather([0])[:] = 0  # a copy: writing into it is allowed and changes nothing
        np.testing.assert_array_equal(train.gather([0]), pictures[:1])


def test_npy_gets_a_grey_axis(tmp_path):
    np.save(tmp_path / "grey.npy", np.full((2, 5, 5), 7, np.uint8))
    train = open_datasets(make_options("npy", 5, 1, **paths(tmp_path / "grey.npy"))).train
    assert everything(train).shape == (2, 5, 5, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 5, 5, 3), np.float32), "holds float32"),
        (np.zeros((2, 6, 5, 3), np.uint8), r"need"),
        (np.zeros((2, 5, 5, 4), np.uint8), r"need"),
        (np.zeros((0, 5, 5, 3), np.uint8), "no pictures"),
        (np.array([{"a": 1}]), "not a numpy array file"),
    ],
)
def test_unfit_npy_is_refused(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        _ = open_datasets(make_options("npy", 5, 3, **paths(tmp_path / "x.npy"))).train


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\0", b"hello"])
def test_foreign_npy_is_refused(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npy: not a"):
        _ = open_datasets(make_options("npy", 5, 3, **paths(tmp_path / "x.npy"))).train


@pytest.mark.parametrize(
    ("source", "resolution", "channels", "message"),
    [
        ("digits", 16, 1, "set it to 8"),
        ("binarized_mnist", 28, 1, "2 pixels of padding.*set it to 32"),
        ("cifar-10", 64, 3, "set it to 32"),
        ("mnist_grey", 16, 1, "set it to 28 or 14 or 7"),
        ("mnist10k", 14, 1, "set it to 32$"),
        ("digits", 8, 3, "set it to 1"),
        ("photos", 32, 1, "set it to 3"),
        ("photoz", 32, 3, "did you mean 'photos'"),
    ],
)
def test_options_must_fit_the_source(source, resolution, channels, message):
    with pytest.raises(UserError, match=message):
        open_datasets(make_options(source, resolution, channels))


@pytest.mark.parametrize("source", ["imagenet", "npy", "ffhq"])
def test_missing_paths_are_named(tmp_path, source):
    with pytest.raises(UserError, match="synthesis_data_path is empty"):
        _ = open_datasets(make_options(source, 8, 3)).test
    with pytest.raises(UserError, match=r"val_data_path '.*nowhere' does not exist"):
        _ = open_datasets(make_options(source, 8, 3, **paths(tmp_path / "nowhere"))).validation


def test_indices_outside_are_refused():
    test = open_datasets(make_options("digits", 8, 1)).test
    for index in (-1, 299):
        with pytest.raises(IndexError):
            test.gather([index])
