"""A user's workflow: train SUNDAE on grey levels and on tokens in both twins, and sample."""

import json
import shutil
from io import StringIO

import numpy as np
import pytest
from PIL import Image

from dioscuri.data.tokens import open_tokens
from dioscuri.families.vqgan.trained import open_tokenizer
from tests.host.test_data_characters import TEXT
from tests.support import tiny_sundae
from tests.support.tiny_maskgit import write_tokenizer, write_tokens
from tests.support.twins import TWINS, call, pictures
from tools import self_correction

pytestmark = pytest.mark.slow

PATHS = [f"data.{option}_data_path=" for option in ("train", "val", "synthesis")]
PIXELS = ["data.dataset_source=digits", "data.grid=8", "data.codebook_size=17", *PATHS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both twins' runs of grey levels: 3 batches in PyTorch, 3 more in JAX."""
    folder = tmp_path_factory.mktemp("twins")
    cfg = tiny_sundae.write_tiny(folder)
    torch_twin, jax_twin = (folder / name for name in TWINS)
    call("train", torch_twin, cfg, *PIXELS, "train.total_train_steps=3")
    words = (*PIXELS, "train.total_train_steps=6", "--resume-from", torch_twin / "logs-tiny")
    call("train", jax_twin, cfg, *words)
    return folder


def test_a_run_continues_in_the_other_twin_and_reports(folder):
    for name in TWINS:
        report = json.loads((folder / name / "logs-tiny" / "report.json").read_text())
        assert 0 < report["cross_entropy"] < 2 * np.log(17)
        assert 0 <= report["class_agreement"] <= 1
        assert (folder / name / "logs-tiny" / "samples.png").exists()
        assert list((folder / name / "logs-tiny" / "validation-images").glob("*-val-generated.png"))


@pytest.mark.parametrize("name", TWINS)
def test_every_mode_leaves_its_files(folder, tmp_path, name, monkeypatch):
    twin = tmp_path / name
    shutil.copytree(folder / "jax_impl" / "logs-tiny", twin / "logs-tiny")
    images = twin / "logs-tiny" / "synthesis-images"

    def mode(mode, *overrides):
        words = [*PIXELS, f"synthesis.synthesis_mode={mode}", *overrides]
        call("synthesize", twin, tiny_sundae.write_tiny(folder), *words)

    mode("generation", "synthesis.classes=[3, 4]")
    assert pictures(images / "generated").shape == (8, 8, 8)
    assert list(json.loads((images / "generated" / "labels.json").read_text()).values()) == [3, 4] * 4
    mode("inpainting")
    assert pictures(images / "inpainted").shape == (6, 8, 8)
    mode("animation", "synthesis.steps=40")
    with Image.open(images / "animation" / "steps.gif") as animated:
        assert animated.n_frames >= 3
    mode("generation", "synthesis.sampler=argmax_unrolled", "synthesis.n_generation_batches=1")
    mode("reconstruction")
    report = json.loads((images / "reconstructed" / "report.json").read_text())
    assert report["pictures"] == 6
    assert report["psnr"] > 40  # grey levels are the tokens, except for rounding
    monkeypatch.setattr("sys.stdin", StringIO("1\n3\n4\n" + "\n" * 5 + "yes\n5\n2\n9\n"))
    mode("interactive")
    assert len(list((images / "interactive").glob("*.png"))) == 4


@pytest.mark.parametrize("name", TWINS)
def test_a_region_of_a_photograph_is_resampled(folder, tmp_path, name):
    twin = tmp_path / name
    shutil.copytree(folder / "jax_impl" / "logs-tiny", twin / "logs-tiny")
    photo = np.arange(32 * 48, dtype=np.uint32).reshape(32, 48) * 255 // (32 * 48)
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 12:36] = 255  # tokens 2 to 5 of 8, in both directions
    for file, values in (("photo", photo.astype(np.uint8)), ("mask", mask)):
        Image.fromarray(values).save(tmp_path / f"{file}.png")
    words = [f"synthesis.image_path={tmp_path / 'photo.png'}", f"synthesis.mask_path={tmp_path / 'mask.png'}"]
    words += ["synthesis.synthesis_mode=inpainting", "synthesis.n_samples=3", "synthesis.classes=[3]"]
    call("synthesize", twin, tiny_sundae.write_tiny(folder), *PIXELS, *words)
    made = pictures(twin / "logs-tiny" / "synthesis-images" / "inpainted")
    assert made.shape == (3, 8, 8)
    inside = np.zeros((8, 8), bool)
    inside[2:6, 2:6] = True
    assert (made[:, ~inside] == made[:1, ~inside]).all()
    assert np.diff(made[0, 0].astype(int)).min() >= 0  # the photograph's gradient
    assert (made[0, inside] != made[1, inside]).any()


@pytest.mark.parametrize("name", TWINS)
def test_self_correction_is_judged(folder, name, capsys):
    self_correction.main([str(folder / name / "logs-tiny"), "--pictures", "10", "--share", "0"])
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.startswith(("tokens ", "test pictures, ", "the same pictures"))]
    assert len(titles) == 4
    assert titles[2] == "test pictures, 0% of the tokens random, 0.0 levels off (RMS):"
    assert not titles[3].endswith(" 0.0 levels off:")
    assert sum("of the samples have the requested class" in line for line in lines) == 4


def test_tokens_that_stay_are_each_set_once(folder, monkeypatch):
    context = self_correction.open_context(folder / "torch_impl" / "logs-tiny")
    L, steps = context.engine.family.plan.n_tokens, context.hparams.synthesis.steps
    number = iter(range(steps))
    monkeypatch.setattr(
        self_correction, "sampled_once", lambda _, asked, *__, **___: asked["start"] * 0 - next(number) - 1
    )
    monkeypatch.setattr(self_correction, "decoded", lambda _, tokens: tokens)
    (rows,) = self_correction.frozen(context, 3)
    counts = np.stack([(rows["image"] == -k - 1).sum(1) for k in range(steps)])
    assert counts.shape == (steps, 3)
    assert (counts.sum(0) == L).all()
    assert counts.max() - counts.min() <= 1


def test_shards_of_a_tokenizer_are_learnt(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    cfg = tiny_sundae.write_tiny(tmp_path)
    shards = write_tokens(tmp_path / "tokens", sha256=open_tokenizer(tokenizer).sha256)
    paths = [word + str(shards) for word in PATHS]
    twin = tmp_path / "torch_impl"
    call("train", twin, cfg, f"data.tokenizer_path={tokenizer}", *paths)
    assert (twin / "logs-tiny" / "report.json").exists()
    words = [f"data.tokenizer_path={tokenizer}", *PIXELS[:1], *PATHS]
    call("synthesize", twin, cfg, *words, "synthesis.synthesis_mode=reconstruction")
    assert pictures(twin / "logs-tiny" / "synthesis-images" / "reconstructed").shape == (6, 8, 8)
    call("synthesize", twin, cfg, *words, "synthesis.synthesis_mode=encoding", "synthesis.split=validation")
    made = open_tokens(twin / "logs-tiny" / "latents" / "tokens_validation")
    assert (made.grid, len(made)) == ((4, 4), 149)
    assert made.header["tokenizer"]["sha256"] == open_tokenizer(tokenizer).sha256


@pytest.mark.parametrize("name", TWINS)
def test_text_is_learnt_and_written(tmp_path, name):
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog " * 40)
    cfg, twin = tiny_sundae.write_tiny(tmp_path), tmp_path / name
    words = [*TEXT, f"data.train_data_path={tmp_path / 'text'}"]
    call("train", twin, cfg, *words, "train.total_train_steps=3")
    call("synthesize", twin, cfg, *words)
    lines = (twin / "logs-tiny" / "synthesis-images" / "generated" / "texts.txt").read_text().splitlines()
    assert [len(line) for line in lines] == [8] * 8
