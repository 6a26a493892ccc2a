"""Faults from public bug reports, each as briefly as possible: none may occur."""

import io
import json
import shutil
import tarfile
import warnings
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from dioscuri.cli.evaluate import evaluate
from dioscuri.data import image_files, open_datasets
from dioscuri.data.options import matching_files
from dioscuri.data.webdataset import open_webdataset
from dioscuri.errors import UserError
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.importers.open_model import open_published
from tests.support import tiny_maskgit, tiny_vqgan
from tests.support.data_options import make_options, paths
from tests.support.twins import TWINS, call


def save(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, 9, 9)).save(path)


def opened(source, path, **data):
    return open_datasets(make_options(source, 8, 3, **paths(path), **data)).train


def tar_of(folder, members):
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return make_options("webdataset", 8, 3, train_data_path=str(folder))


def png(level):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("pattern", [("custom", ""), ("glob", "/*/*.png")])
def test_class_folders_give_labels(tmp_path, pattern):
    for name in ("cat", "dog"):
        for number in range(4):
            save(tmp_path / name / f"{number}.png", 40 * number)
    source, suffix = pattern
    assert opened(source, f"{tmp_path}{suffix}", labels=True).labels.tolist() == [0] * 4 + [1] * 4


def test_brackets_of_a_folder_are_literal(tmp_path):
    save(tmp_path / "[2023] trip" / "0.png")
    assert len(opened("glob", tmp_path / "[2023] trip" / "*.png")) == 1


@pytest.mark.parametrize("source", ["custom", "glob", "webdataset"])
def test_hidden_files_are_skipped(tmp_path, source):
    if source == "webdataset":
        tar_of(tmp_path / "tars", [("0.png", png(10))])
        (tmp_path / "tars" / "._0.tar").write_bytes(b"\0\5\x16\7" + bytes(60))
        assert len(opened(source, tmp_path / "tars")) == 1
        return
    save(tmp_path / "0.png")
    (tmp_path / "._0.png").write_bytes(b"\0\5\x16\7" + bytes(60))
    (tmp_path / "folder.jpg").mkdir()
    assert len(opened(source, tmp_path)) == 1


def test_a_cycle_of_links_counts_no_file_twice(tmp_path):
    save(tmp_path / "sub" / "0.png")
    save(tmp_path / "1.png")
    (tmp_path / "sub" / "up").symlink_to("..")
    data = SimpleNamespace(train_data_path=f"{tmp_path}/**/*.png")
    assert len(matching_files(data, "train", (".png",))) == 2


def test_tar_files_lose_nothing_silently(tmp_path):
    twice = [("a.png", png(10)), ("a.cls", b"1"), ("a.png", png(200)), ("b.png", png(30)), ("b.cls", b"0")]
    with pytest.raises(UserError, match=r"two members 'a\.png'"):
        open_webdataset(tar_of(tmp_path / "twice", twice), "train")
    options = tar_of(tmp_path / "cut", [("a.png", png(10)), ("b.png", png(20)), ("c.png", png(30))])
    tar = tmp_path / "cut" / "0.tar"
    tar.write_bytes(tar.read_bytes()[: 2048 + 200])
    with pytest.raises(UserError, match="cut short"):
        open_webdataset(options, "train")
    dots = [("v1.0 (a).png", png(10)), ("v1.0 (b).png", png(20)), ("c.png", png(30))]
    pictures = open_webdataset(tar_of(tmp_path / "dots", dots), "train")
    assert "2 picture files" in " ".join(pictures.notes)
    np.testing.assert_array_equal(pictures.gather([0])[0, 0, 0], [30, 30, 30])


def test_evaluation_sees_colours_after_a_grey_first_picture(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 130, 0))):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), 76).save(tmp_path / name / "000.png")
        for number in range(1, 6):
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / f"{number:03}.png")

    def no_engine(twin, hparams):
        raise AssertionError

    evaluate([str(tmp_path / "red"), str(tmp_path / "green"), "--json", str(tmp_path / "o.json")], no_engine)
    assert json.loads((tmp_path / "o.json").read_text())["metrics"]["FD-pixels"]["value"] > 1e5


SHORT = ["train.total_train_steps=4", "train.checkpoint_and_eval_interval_in_steps=2"]


@pytest.mark.slow
@pytest.mark.parametrize("twin", TWINS)
def test_a_run_of_nan_does_not_end_well(tmp_path, twin, capsys):
    """Codes that no token chooses have no gradient: without epsilon their updates are 0 / 0."""
    cfg, home = tiny_vqgan.write_tiny(tmp_path), tmp_path / twin
    with pytest.raises(SystemExit) as end:
        call("train", home, cfg, *SHORT, "optimizer.epsilon=0")
    assert end.value.code == 2
    told = capsys.readouterr()
    assert "no validation of the run 'tiny' was finite" in told.err
    assert "best validation" not in told.out
    assert not (home / "logs-tiny" / "report.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("twin", TWINS)
def test_options_of_a_call_do_not_stick(tmp_path, twin):
    home, tokenizer = tmp_path / twin, tiny_maskgit.write_tokenizer(tmp_path)
    tokens = tiny_maskgit.write_tokens(tmp_path / "tokens", sha256=open_tokenizer(tokenizer).sha256)
    words = [f"data.{split}_data_path={tokens}" for split in ("train", "val", "synthesis")]
    cfg = tiny_maskgit.write_tiny(tmp_path)
    call("train", home, cfg, *SHORT, *words, "val.report_samples=0", f"data.tokenizer_path={tokenizer}")
    call("synthesize", home, cfg, "synthesis.steps=1", "synthesis.top_k=1")
    call("synthesize", home, cfg)
    images = home / "logs-tiny" / "synthesis-images"
    made = {path.parent.name: json.loads(path.read_text()) for path in images.glob("*/settings.json")}
    assert [made[name]["options"]["synthesis"]["steps"] for name in sorted(made)] == [1, 3]
    assert [made[name]["options"]["synthesis"]["top_k"] for name in sorted(made)] == [1, 0]


def test_a_png_with_a_large_text_is_read(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * (2 << 20), zip=True)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "workflow.png", pnginfo=info)
    assert image_files.decode(tmp_path / "workflow.png", 8, 3)[0, 0].tolist() == [1, 2, 3]


VQ = {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (32, 64), "layers_per_block": 1, "latent_channels": 8, "sample_size": 32,
    "num_vq_embeddings": 16, "norm_num_groups": 8, "vq_embed_dim": 8, "mid_block_add_attention": False,
    "lookup_from_codebook": True, "force_upcast": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def published_tokenizer(tmp_path_factory):
    """One tokenizer of diffusers in every layout of weights."""
    folder = tmp_path_factory.mktemp("published")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = import_module("diffusers").VQModel(**VQ)
        model.save_pretrained(folder / "plain")
        model.save_pretrained(folder / "variant", variant="fp16")
        model.save_pretrained(folder / "sharded", max_shard_size="200KB")
        model.save_pretrained(folder / "sharded_bin", max_shard_size="200KB", safe_serialization=False)
    prefixes = {"ddp": "module.", "compiled": "_orig_mod.", "both": "module._orig_mod."}
    for name, prefix in prefixes.items():
        (folder / name).mkdir()
        shutil.copy(folder / "plain" / "config.json", folder / name)
        state = {prefix + key: tensor for key, tensor in model.state_dict().items()}
        torch.save(state, folder / name / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("layout", ["variant", "sharded", "sharded_bin", "ddp", "compiled", "both"])
def test_weights_in_every_layout_import_like_the_plain_file(published_tokenizer, layout):
    words = ["data.target_res=32"]
    plain, other = (open_published(published_tokenizer / name, words) for name in ("plain", layout))
    assert plain.weights.keys() == other.weights.keys()
    assert all(np.array_equal(other.weights[name], array) for name, array in plain.weights.items())
