"""Preparation of data sets, against a server on this machine that can misbehave."""

import gzip
import hashlib
import io
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from common.data import open_datasets
from common.data.idx import read_idx
from common.download import fetch
from common.errors import UserError
from data_scripts import cifar10, convert, faces, mnist, prepare, random_split, utility_resize
from data_scripts.extract import members, unpack
from data_scripts.request import Remote
from tests.common.data_options import idx_bytes, make_options, paths


class Server:
    """Serves `files` (name -> bytes) with ranges; `cut` bytes after which a connection breaks off, once."""

    def __init__(self):
        self.files = {}
        self.cut = None
        self.ranges = True
        self.tag = '"one"'
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def answer(self, request):
        asked = request.headers.get("Range")
        self.requests.append(asked)
        data = self.files.get(request.path.lstrip("/"))
        if data is None:
            request.send_error(404, "Not Found")
            return
        start = 0
        same = request.headers.get("If-Range", self.tag) == self.tag
        if asked and self.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        if self.tag:
            request.send_header("ETag", self.tag)
        body = data[start:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.cut is not None:
            body, self.cut = body[: self.cut], None
            request.close_connection = True
        request.wfile.write(body)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


DATA = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
CHECKSUM = "sha256:" + hashlib.sha256(DATA).hexdigest()


def test_a_download_is_checked_and_leaves_nothing_else(server, tmp_path):
    server.files["x"] = DATA
    assert fetch(f"{server.url}/x", tmp_path / "in" / "x", CHECKSUM).read_bytes() == DATA
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["x"]
    fetch(f"{server.url}/x", tmp_path / "in" / "x", CHECKSUM)
    assert len(server.requests) == 1, "a sound file was fetched again"


@pytest.mark.parametrize("checksum", [CHECKSUM, ""])
def test_a_broken_connection_is_continued(server, tmp_path, checksum):
    server.files["x"], server.cut = DATA, 1234
    fetch(f"{server.url}/x", tmp_path / "x", checksum, pause=0)
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.requests == [None, "bytes=1234-"]


def test_a_later_call_continues(server, tmp_path):
    server.files["x"], server.cut = DATA, 1234
    with pytest.raises(UserError, match="run the command again"):
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, attempts=1)
    assert not (tmp_path / "x").exists()
    fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, attempts=1)
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.requests == [None, "bytes=1234-"]


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.files["x"], server.cut, server.ranges = DATA, 1234, False
    fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, pause=0)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_not_mixed(server, tmp_path):
    server.files["x"], server.cut = DATA[::-1], 1234
    with pytest.raises(UserError, match="run the command again"):
        fetch(f"{server.url}/x", tmp_path / "x", "", attempts=1)
    server.files["x"], server.tag = DATA, '"two"'
    fetch(f"{server.url}/x", tmp_path / "x", "")
    assert (tmp_path / "x").read_bytes() == DATA


def test_without_tag_and_checksum_nothing_is_continued(server, tmp_path):
    server.files["x"], server.cut, server.tag = DATA, 1234, ""
    fetch(f"{server.url}/x", tmp_path / "x", "", pause=0)
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.requests == [None, None]


def test_a_partial_file_that_is_complete_or_too_long_is_dealt_with(server, tmp_path):
    server.files["x"] = DATA
    for partial in (DATA, DATA + b"more"):
        (tmp_path / "x").unlink(missing_ok=True)
        (tmp_path / "x.part").write_bytes(partial)
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM, pause=0)
        assert (tmp_path / "x").read_bytes() == DATA


def test_a_corrupt_download_is_refused_and_deleted(server, tmp_path):
    server.files["x"] = DATA[:-1] + b"!"
    with pytest.raises(UserError, match=f"not {CHECKSUM[7:]}; the download was deleted"):
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM)
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_that_the_user_put_there_is_refused_and_kept(server, tmp_path):
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(UserError, match="sha256"):
        fetch(f"{server.url}/x", tmp_path / "x", CHECKSUM)
    assert (tmp_path / "x").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("url", "message"),
    [("file:///etc/passwd", "not an http"), ("{}/y", "answers 404"), ("nothing", "not an http")],
)
def test_bad_addresses_are_refused(server, tmp_path, url, message):
    with pytest.raises(UserError, match=message):
        fetch(url.format(server.url), tmp_path / "x", CHECKSUM, attempts=1)


def tar_of(path, entries):
    """entries: (name, content) or a TarInfo."""
    with tarfile.open(path, "w:gz") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return path


def zip_of(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def link(kind, name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def everything(name: PurePosixPath):
    return name


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "C:evil"])
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_names_that_lead_out_are_refused(tmp_path, pack, name):
    archive = pack(tmp_path / "archive", [("fine", b"1")])
    assert [str(name) for name, *_ in members(archive)] == ["fine"]
    archive = pack(tmp_path / "archive", [(name, b"1")])
    with pytest.raises(UserError, match="not to be trusted"):
        unpack(archive, tmp_path / "inner" / "out", everything)
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "inner" / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    archive = tar_of(tmp_path / "a.tar", [link(kind, "inside", "../outside"), ("inside/evil", b"1")])
    with pytest.raises(UserError, match="link or device"):
        unpack(archive, tmp_path / "out", everything)
    info = zipfile.ZipInfo("inside")
    info.external_attr = 0o120777 << 16
    with pytest.raises(UserError, match="is a link"):
        unpack(zip_of(tmp_path / "a.zip", [(info, b"../outside")]), tmp_path / "out", everything)


def test_damaged_archives_are_named(tmp_path):
    sound = tar_of(tmp_path / "a.tar.gz", [("x", DATA)]).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(sound[:-1000])
    (tmp_path / "b.zip").write_bytes(b"nothing")
    broken = bytearray(zip_of(tmp_path / "c.zip", [("x", DATA)]).read_bytes())
    broken[100] ^= 255
    (tmp_path / "c.zip").write_bytes(broken)
    for name in ("a.tar.gz", "b.zip", "c.zip"):
        with pytest.raises(UserError, match=name):
            unpack(tmp_path / name, tmp_path / name.partition(".")[0], everything)


def test_members_that_would_overwrite_each_other_are_refused(tmp_path):
    archive = tar_of(tmp_path / "a.tar", [("one/x.png", b"1"), ("two/x.png", b"2")])
    with pytest.raises(UserError, match="another member"):
        unpack(archive, tmp_path / "out", lambda name: PurePosixPath(name.name))


def reference_split(labels, n_test):
    """The rule of the 10,000 digits, written out once more in another way."""
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
    with pytest.raises(UserError, match="remove it to prepare it again"):
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
    with pytest.raises(UserError, match="not original MNIST"):
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


def picture_bytes(size, seed, kind="PNG"):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


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
    with pytest.raises(UserError, match=r"list_eval_partition\.txt cannot be fetched.*CelebA\.html"):
        prepare.main(["celeba", "--output", str(tmp_path)])


@pytest.mark.parametrize(("name", "folder"), [("celebahq", "celebAHQ"), ("ffhq", "ffhq")])
def test_faces_are_flattened_and_split(server, tmp_path, name, folder):
    entries = [(f"{n // 5:05d}/{n:05d}.png", picture_bytes((4, 4), n)) for n in range(10)]
    server.files["faces.tar.gz"] = tar_of(tmp_path / "f", [*entries, ("LICENSE.txt", b"text")]).read_bytes()
    command = [name, "--output", str(tmp_path), "--base-url", server.url, "--unverified"]
    command += ["--archive", "faces.tar.gz"]
    with pytest.raises(UserError, match="has 10 pictures; cannot move"):
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


def make_pictures(folder, sizes, suffix=".png"):
    folder.mkdir(exist_ok=True)
    for number, size in enumerate(sizes):
        kind = {".png": "PNG", ".jpg": "JPEG"}[suffix]
        (folder / f"{number}{suffix}").write_bytes(picture_bytes(size, number, kind))
    return folder


def test_random_split_moves_the_same_pictures_every_time(tmp_path):
    moved = []
    for name in ("a", "b"):
        source = make_pictures(tmp_path / name, [(2, 2)] * 12)
        random_split.main([str(source), str(tmp_path / f"{name}_val"), "4"])
        moved.append({path.name for path in (tmp_path / f"{name}_val").iterdir()})
        assert len(list(source.iterdir())) == 8
    assert moved[0] == moved[1]
    assert len(moved[0]) == 4


def test_random_split_refuses_to_empty_or_overwrite(tmp_path):
    source = make_pictures(tmp_path / "a", [(2, 2)] * 3)
    for n in ("0", "3", "-1"):
        with pytest.raises(UserError, match="cannot move"):
            random_split.main([str(source), str(tmp_path / "val"), n])
    make_pictures(tmp_path / "val", [(2, 2)] * 3)
    with pytest.raises(UserError, match="nothing was moved"):
        random_split.main([str(source), str(tmp_path / "val"), "2"])
    assert len(list(source.iterdir())) == 3


def resize(source, target, kind, *more, resolution=4):
    utility_resize.main(
        [
            "--in-path",
            str(source),
            "--out-path",
            str(target),
            "--resize-type",
            kind,
            "--resolution",
            str(resolution),
            *more,
        ]
    )
    return {path.name: np.asarray(Image.open(path)) for path in target.iterdir()}


def test_center_crop_scales_the_central_square(tmp_path):
    source = make_pictures(tmp_path / "in", [(8, 12), (3, 3)])
    results = resize(source, tmp_path / "out", "center_crop")
    assert {name: picture.shape for name, picture in results.items()} == {
        "0.png": (4, 4, 3),
        "1.png": (4, 4, 3),
    }
    square = Image.open(source / "0.png").crop((0, 2, 8, 10))
    np.testing.assert_array_equal(results["0.png"], square.resize((4, 4), Image.Resampling.BILINEAR))


def test_reshape_scales_both_sides(tmp_path):
    source = make_pictures(tmp_path / "in", [(8, 12)])
    results = resize(source, tmp_path / "out", "reshape")
    expected = Image.open(source / "0.png").resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(results["0.png"], expected)


def test_random_crops_are_windows_with_names_of_their_own(tmp_path):
    source = make_pictures(tmp_path / "in", [(9, 7)], suffix=".jpg")
    results = resize(source, tmp_path / "out", "random_crop", "--repeat-n", "3")
    assert sorted(results) == ["0_re00.png", "0_re01.png", "0_re02.png"]
    whole = np.asarray(Image.open(source / "0.jpg"))
    windows = np.lib.stride_tricks.sliding_window_view(whole, (4, 4), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    for picture in results.values():
        assert (windows == picture).all(axis=(2, 3, 4)).any()
    again = resize(source, tmp_path / "again", "random_crop", "--repeat-n", "3")
    assert all((again[name] == results[name]).all() for name in results)
    with pytest.raises(UserError, match=r"0\.jpg: is 9x7, too small"):
        resize(source, tmp_path / "big", "random_crop", resolution=8)


def test_resizing_overwrites_nothing(tmp_path):
    source = make_pictures(tmp_path / "in", [(5, 5)])
    make_pictures(tmp_path / "in", [(5, 5)], suffix=".jpg")
    with pytest.raises(UserError, match=r"0\.png exists"):
        resize(source, tmp_path / "out", "reshape")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_becomes_npy_and_back(tmp_path, channels):
    source = make_pictures(tmp_path / "in", [(6, 6), (4, 5)])
    target = tmp_path / "all.npy"
    convert.main(["to-npy", str(source), str(target), "--resolution", "5", "--channels", str(channels)])
    folder = open_datasets(make_options("custom", 5, channels, **paths(source))).train
    mapped = open_datasets(make_options("npy", 5, channels, **paths(target))).train
    np.testing.assert_array_equal(mapped.gather([0, 1]), folder.gather([0, 1]))
    convert.main(["to-folder", str(target), str(tmp_path / "back")])
    back = open_datasets(make_options("custom", 5, channels, **paths(tmp_path / "back"))).train
    np.testing.assert_array_equal(back.gather([0, 1]), folder.gather([0, 1]))
    with pytest.raises(UserError, match="not empty"):
        convert.main(["to-folder", str(target), str(tmp_path / "back")])


def test_a_failed_conversion_leaves_no_file(tmp_path):
    source = make_pictures(tmp_path / "in", [(6, 6)])
    (source / "1.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1\.png: not an image"):
        convert.main(["to-npy", str(source), str(tmp_path / "x.npy"), "--resolution", "4"])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
