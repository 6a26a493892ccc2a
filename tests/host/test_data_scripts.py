"""Preparation of data sets, with a local server."""

import gzip
import hashlib
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from data_scripts import cifar10, faces, mnist, prepare
from data_scripts.request import Remote
from dioscuri.data import open_datasets
from dioscuri.data.idx import read_idx
from dioscuri.errors import UserError
from tests.support.data_options import idx_bytes, make_options, paths
from tests.support.web_server import picture_bytes, tar_of, zip_of


def reference_split(labels, n_test):
    """The rule for the 10,000 digits, implemented in another way."""
    n = {c: int((labels == c).sum()) for c in range(10)}
    k = {c: n[c] * n_test // len(labels) for c in range(10)}
    while sum(k.values()) < n_test:
        left = [c for c in range(10) if k[c] == n[c] * n_test // len(labels)]
        k[max(left, key=lambda c: (n[c] * n_test % len(labels), -c))] += 1
    parts = {"test": [], "train": []}
    for c in range(10):
        digits = [i for i, label in enumerate(labels) if label == c]
        chosen = {int((j + 0.5) * n[c] / k[c]) for j in range(k[c])}
        for part, kept in (
            ("test", [d for i, d in enumerate(digits) if i in chosen]),
            ("train", [d for i, d in enumerate(digits) if i not in chosen]),
        ):
            parts[part] += [((position + 0.5) / len(kept), c, d) for position, d in enumerate(kept)]
    return [[d for *_, d in sorted(parts[part])] for part in ("train", "test")]


def test_the_split_rule_of_mnist10k():
    labels = np.random.default_rng(5).integers(0, 10, 500).astype(np.uint8)
    train, test = mnist.split_subset(labels, 50)
    expected_train, expected_test = reference_split(labels, 50)
    assert train.tolist() == expected_train
    assert test.tolist() == expected_test
    assert sorted([*train, *test]) == list(range(500))


def serve_mnist(server, monkeypatch, *, n=200):
    generator = np.random.default_rng(7)
    arrays = {
        "train-images-idx3-ubyte.gz": generator.integers(0, 256, (n, 28, 28), np.uint8),
        "train-labels-idx1-ubyte.gz": (np.arange(n) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte.gz": generator.integers(0, 256, (8, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte.gz": np.arange(8, dtype=np.uint8),
    }
    for name, array in arrays.items():
        server.files[name] = gzip.compress(idx_bytes(array))
        checksum = "sha256:" + hashlib.sha256(server.files[name]).hexdigest()
        monkeypatch.setitem(mnist.FILES, name, Remote(name=name, checksum=checksum))
    return arrays


def test_mnist_is_downloaded_to_where_it_is_read(server, tmp_path, monkeypatch, capsys):
    arrays = serve_mnist(server, monkeypatch)
    prepare.main(["mnist", "--output", str(tmp_path), "--base-url", server.url])
    assert f"prepared {tmp_path / 'mnist'}" in capsys.readouterr().out
    train = open_datasets(make_options("binarized_mnist", 32, 1, dataset_path=str(tmp_path))).train
    np.testing.assert_array_equal(train.gather([3])[0, ..., 0], arrays["train-images-idx3-ubyte.gz"][3])
    with pytest.raises(UserError, match="remove it to prepare the data again"):
        prepare.main(["mnist", "--output", str(tmp_path), "--base-url", server.url])


def test_a_failed_preparation_leaves_no_folder(server, tmp_path, monkeypatch):
    serve_mnist(server, monkeypatch)
    server.files["t10k-labels-idx1-ubyte.gz"] += b"!"
    with pytest.raises(UserError, match="sha256"):
        prepare.main(["mnist", "--output", str(tmp_path), "--base-url", server.url])
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_mnist10k_is_derived_and_its_hash_is_checked(server, tmp_path, monkeypatch):
    arrays = serve_mnist(server, monkeypatch)
    monkeypatch.setattr(mnist, "_SUBSET_SIZE", 100)
    monkeypatch.setattr(mnist, "_SUBSET_TEST_SIZE", 10)
    command = ["mnist10k", "--output", str(tmp_path), "--base-url", server.url]
    with pytest.raises(UserError, match="not the original MNIST"):
        prepare.main(command)
    pictures, labels = (arrays[f"train-{kind}-ubyte.gz"] for kind in ("images-idx3", "labels-idx1"))
    parts = [array[index] for index in mnist.split_subset(labels[:100], 10) for array in (pictures, labels)]
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    monkeypatch.setattr(mnist, "SUBSET_SHA256", digest)
    prepare.main(command)
    for name, part in zip(mnist.FILES, parts, strict=True):
        np.testing.assert_array_equal(read_idx(tmp_path / "mnist10k" / name), part)


def cifar_archive(path, *, without=()):
    record = np.zeros(3073, np.uint8).tobytes()
    names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    entries = [(f"cifar-10-batches-bin/{name}", record * 2) for name in names if name not in without]
    return tar_of(path, entries).read_bytes()


def test_cifar10_is_unpacked_to_where_it_is_read(server, tmp_path, monkeypatch):
    data = cifar_archive(tmp_path / "a.tar.gz")
    server.files[cifar10.ARCHIVE.name] = data
    with pytest.raises(UserError, match="md5"):
        prepare.main(["cifar10", "--output", str(tmp_path / "o"), "--base-url", server.url])
    checksum = ["--sha256", hashlib.sha256(data).hexdigest()]
    prepare.main(["cifar10", "--output", str(tmp_path / "o"), "--base-url", server.url, *checksum])
    options = make_options("cifar-10", 32, 3, dataset_path=str(tmp_path / "o"))
    assert len(open_datasets(options).train) == 10


def test_an_incomplete_cifar10_is_refused(server, tmp_path):
    server.files[cifar10.ARCHIVE.name] = data = cifar_archive(tmp_path / "a", without=["data_batch_3.bin"])
    checksum = ["--sha256", hashlib.sha256(data).hexdigest()]
    with pytest.raises(UserError, match=r"data_batch_3\.bin"):
        prepare.main(["cifar10", "--output", str(tmp_path / "o"), "--base-url", server.url, *checksum])
    assert not (tmp_path / "o" / "cifar-10").exists()


def test_imagenet_needs_a_checksum_or_consent_and_is_stored_for_mapping(server, tmp_path, capsys):
    pictures = np.random.default_rng(8).integers(0, 256, (4, 3072), np.uint8)
    part = io.BytesIO()
    np.savez_compressed(part, data=pictures, labels=np.arange(4))
    for kind, name in (("train", "train_data_batch_1.npz"), ("val", "val_data.npz")):
        zipped = zip_of(tmp_path / kind, [(f"Imagenet32_{kind}_npz/{name}", part.getvalue())])
        server.files[f"Imagenet32_{kind}_npz.zip"] = zipped.read_bytes()
    command = ["imagenet32", "--output", str(tmp_path), "--base-url", server.url]
    with pytest.raises(UserError, match=r"--sha256 Imagenet32_train_npz\.zip=<hex> or --unverified"):
        prepare.main(command)
    prepare.main([*command, "--unverified"])
    digest = hashlib.sha256(server.files["Imagenet32_val_npz.zip"]).hexdigest()
    assert f"Imagenet32_val_npz.zip: not verified; its sha256 is {digest}" in capsys.readouterr().out
    folder = tmp_path / "imagenet_32"
    assert zipfile.ZipFile(folder / "val_data" / "val_data.npz").getinfo("data.npy").compress_type == 0
    train = open_datasets(make_options("imagenet", 32, 3, **paths(folder / "train_data"))).train
    np.testing.assert_array_equal(train.gather([2])[0], pictures[2].reshape(3, 32, 32).transpose(1, 2, 0))


def test_celeba_is_cropped_and_split_by_the_official_list(tmp_path, monkeypatch):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    jpegs = {f"{n:06d}.jpg": picture_bytes((178, 218), n, "JPEG") for n in range(1, 5)}
    zip_of(downloads / "img_align_celeba.zip", [(f"img_align_celeba/{k}", v) for k, v in jpegs.items()])
    (downloads / "list_eval_partition.txt").write_text(
        "000001.jpg 0\n000002.jpg 2\n000003.jpg 1\n000004.jpg 0\n"
    )
    with pytest.raises(UserError, match="md5"):
        prepare.main(["celeba", "--output", str(tmp_path)])
    digests = [
        f"--sha256={path.name}={hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in downloads.iterdir()
    ]
    prepare.main(["celeba", "--output", str(tmp_path), *digests])
    folder = tmp_path / "celebA"
    names = {split: sorted(path.name for path in (folder / split).iterdir()) for split in faces.CELEBA_SPLITS}
    assert names == {
        "train_data": ["000001.png", "000004.png"],
        "val_data": ["000003.png"],
        "synthesis_data": ["000002.png"],
    }
    whole = np.asarray(Image.open(io.BytesIO(jpegs["000003.jpg"])))
    crop = np.asarray(Image.open(folder / "val_data" / "000003.png"))
    np.testing.assert_array_equal(crop, whole[40:188, 15:163])


def test_a_set_that_no_script_can_fetch_says_where_it_is(tmp_path):
    with pytest.raises(UserError, match=r"list_eval_partition\.txt cannot be downloaded.*CelebA\.html"):
        prepare.main(["celeba", "--output", str(tmp_path)])


ARCHIVES = {
    "ffhq": ("images1024x1024.zip", "ffhq-dataset.zip", "FFHQ_256.zip", "thumbnails128x128.zip"),
    "celebahq": ("data1024x1024.zip", "CelebA-HQ.zip", "celeba_hq_256.zip", "CelebAMask-HQ.zip"),
}


@pytest.mark.parametrize(("name", "archive"), [(k, name) for k, names in ARCHIVES.items() for name in names])
def test_archives_of_faces_are_found_by_their_publishers_names(tmp_path, name, archive):
    """0.1.0 knew only celebahq.zip and ffhq.zip."""
    (tmp_path / "downloads").mkdir()
    entries = [(f"{i}.png", picture_bytes((2, 2), i)) for i in range(3)]
    zip_of(tmp_path / "downloads" / archive, entries)
    (tmp_path / "downloads" / "other.zip").write_bytes(b"")
    prepare.main([name, "--output", str(tmp_path), "--unverified", "--validation", "1"])
    folder = tmp_path / ("ffhq" if name == "ffhq" else "celebAHQ")
    assert len(list((folder / "train_data").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "page"),
    [("ffhq", "github.com/NVlabs/ffhq-dataset"), ("celebahq", "progressive_growing_of_gans")],
)
def test_the_message_has_the_publishers_address(tmp_path, name, page):
    with pytest.raises(UserError, match=page):
        prepare.main([name, "--output", str(tmp_path), "--unverified"])
    (tmp_path / "downloads").mkdir()
    for archive in ARCHIVES[name][:2]:
        (tmp_path / "downloads" / archive).write_bytes(b"")
    with pytest.raises(UserError, match="choose one with --archive NAME"):
        prepare.main([name, "--output", str(tmp_path), "--unverified"])


@pytest.mark.parametrize(("name", "folder"), [("celebahq", "celebAHQ"), ("ffhq", "ffhq")])
def test_faces_are_flattened_and_split(server, tmp_path, name, folder):
    entries = [(f"{n // 5:05d}/{n:05d}.png", picture_bytes((4, 4), n)) for n in range(10)]
    server.files["faces.tar.gz"] = tar_of(tmp_path / "f", [*entries, ("LICENSE.txt", b"text")]).read_bytes()
    command = [name, "--output", str(tmp_path), "--base-url", server.url, "--unverified"]
    command += ["--archive", "faces.tar.gz"]
    with pytest.raises(UserError, match="has 10 pictures; moving"):
        prepare.main(command)
    assert not (tmp_path / folder).exists()
    prepare.main([*command, "--validation", "3"])
    parts = [
        {path.name for path in (tmp_path / folder / part).iterdir()} for part in ("train_data", "val_data")
    ]
    assert [len(part) for part in parts] == [7, 3]
    assert set.union(*parts) == {f"{n:05d}.png" for n in range(10)}


def test_unknown_data_sets_and_checksums_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"did you mean 'cifar10'"):
        prepare.main(["cifar", "--output", str(tmp_path)])
    with pytest.raises(UserError, match="not a checksum"):
        prepare.main(["cifar10", "--output", str(tmp_path), "--sha256", "abc"])
