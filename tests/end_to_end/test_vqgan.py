"""A user's workflow with a tokenizer: train it, continue in the other twin, reconstruct, encode, decode."""

import json
import shutil

import numpy as np
import pytest

from dioscuri.checkpoint import store
from dioscuri.data.tokens import open_tokens
from tests.support.sections import SHORT
from tests.support.tiny_vqgan import write_tiny
from tests.support.twins import ROOT, TWINS, call, pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with both twins' runs `tiny`: 4 batches in PyTorch, 4 more in JAX; the adversary joins."""
    folder = tmp_path_factory.mktemp("twins")
    cfg = write_tiny(folder)
    torch_twin, jax_twin = (folder / name for name in TWINS)
    call("train", torch_twin, cfg, "train.total_train_steps=4")
    call("train", jax_twin, cfg, "--resume-from", torch_twin / "logs-tiny")
    return folder


@pytest.fixture(params=TWINS)
def twin(request, folder, tmp_path):
    """A twin's folder with the run `tiny`, to be written into."""
    shutil.copytree(folder / request.param / "logs-tiny", tmp_path / request.param / "logs-tiny")
    shutil.copy(folder / "tiny.cfg", tmp_path)
    return tmp_path / request.param


def modes(twin, mode, *overrides):
    call("synthesize", twin, twin.parent / "tiny.cfg", f"synthesis.synthesis_mode={mode}", *overrides)
    return twin / "logs-tiny"


def refused(capsys, twin, mode, *overrides):
    """The one line that a refused call prints."""
    with pytest.raises(SystemExit):
        modes(twin, mode, *overrides)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_run_is_reported_and_continues_in_the_other_twin(folder):
    for name, steps in zip(TWINS, ([1, 2, 3, 4], [5, 6, 7, 8]), strict=True):
        run = folder / name / "logs-tiny"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        train = [line for line in lines if line["split"] == "train"]
        assert [line["step"] for line in train] == steps
        adversarial = [line["Adversarial/logits_real"] != 0 for line in train]
        assert adversarial == [step > 2 for step in steps]
        report = json.loads((run / "report.json").read_text())
        assert report["test_pictures"] == 299
        assert np.isfinite([report["psnr"], report["ssim"], report["codebook_perplexity"]]).all()
        assert (run / "reconstructions.png").exists()
    assert store.load(run / "checkpoints").state["counters"]["updates"] == 8


def test_decoded_tokens_are_the_reconstructions(twin):
    run = modes(twin, "reconstruction", "synthesis.save_target_in_reconstruction=True")
    images = run / "synthesis-images"
    made, targets = (pictures(images / "reconstructed", f"{kind}-*.png") for kind in ("image", "target"))
    report = json.loads((images / "reconstructed" / "report.json").read_text())
    assert (report["pictures"], made.shape, targets.shape) == (10, (10, 8, 8), (10, 8, 8))
    modes(twin, "encoding", "synthesis.split=test")
    tokens = open_tokens(run / "latents" / "tokens_test")
    assert (len(tokens), tokens.grid, tokens.codebook_size) == (10, (4, 4), 16)
    assert tokens.labels.shape == (10,)
    modes(twin, "decoding", "synthesis.split=test")
    np.testing.assert_array_equal(pictures(images / "decoded"), made)
    assert made.std() > 0
    names = json.loads((images / "decoded" / "names.json").read_text())
    assert list(names.values()) == list(tokens.keys)
    for folder in (images / "reconstructed", images / "decoded", run / "latents" / "tokens_test"):
        assert (folder / "contact-sheet.png").exists(), folder


def test_reconstructions_get_a_distance_under_the_name_of_its_network(twin, capsys):
    if twin.name == "jax_impl":
        line = refused(capsys, twin, "reconstruction", "synthesis.extractor=dinov2")
        assert "dinov2 needs the library transformers" in line
        return
    import transformers

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 1}
    encoder = transformers.Dinov2Model(transformers.Dinov2Config(**small, image_size=28))
    encoder.save_pretrained(twin / "encoder")
    run = modes(
        twin,
        "reconstruction",
        "synthesis.extractor=dinov2",
        f"synthesis.extractor_weights={twin / 'encoder'}",
    )
    report = json.loads((run / "synthesis-images" / "reconstructed" / "report.json").read_text())
    assert report["rFD-dinov2"] > 0
    assert "rFID" not in report


def test_both_twins_make_the_same_tokens(folder, tmp_path):
    shards = []
    for name in TWINS:
        shutil.copytree(folder / "jax_impl" / "logs-tiny", tmp_path / name / "logs-tiny")
        shutil.copy(folder / "tiny.cfg", tmp_path)
        run = modes(tmp_path / name, "encoding", "synthesis.n_samples=100")
        shards.append(open_tokens(run / "latents" / "tokens_train"))
    rows = np.arange(100)
    # A vector halfway between two codes may be assigned to either.
    assert (shards[0].gather(rows) != shards[1].gather(rows)).mean() < 0.002
    assert shards[0].header["tokenizer"]["sha256"] == shards[1].header["tokenizer"]["sha256"]


def test_tokens_of_another_tokenizer_are_refused(twin, capsys):
    assert "do not exist" in refused(capsys, twin, "decoding")
    run = modes(twin, "encoding")
    refused_line = refused(capsys, twin, "decoding", "synthesis.load_ema_weights=False")
    assert "made by another tokenizer" in refused_line
    assert "ema weights" in refused_line
    there = f"synthesis.tokens_path={run / 'latents' / 'tokens_train'}"
    line = refused(capsys, twin, "encoding", "synthesis.load_ema_weights=False", there)
    assert "settings (checkpoint.sha256, weights, options.synthesis.load_ema_weights" in line
    index = run / "latents" / "tokens_train" / "index.json"
    index.write_text(index.read_text().replace('"codebook_size": 16', '"codebook_size": 17'))
    line = refused(capsys, twin, "decoding", "synthesis.load_ema_weights=True")
    assert "does not match its sha256" in line


def test_interrupted_encoding_continues(twin, capsys, monkeypatch):
    monkeypatch.setattr("dioscuri.data.tokens.TokenWriter.__init__.__kwdefaults__", {"shard_size": 4})
    run = modes(twin, "encoding")
    folder = run / "latents" / "tokens_train"
    whole = open_tokens(folder).gather(np.arange(10))
    (folder / "tokens-00001.npy").unlink()
    capsys.readouterr()
    modes(twin, "encoding")
    assert "continuing after 4 pictures" in capsys.readouterr().out
    np.testing.assert_array_equal(open_tokens(folder).gather(np.arange(10)), whole)


CODES = (
    *SHORT,
    "synthesis.n_samples=8",
    "run.name=blocks",
    "model.z_channels=4",
    "model.embedding_dim=4",
    "train.total_train_steps=2",
    "synthesis.split=test",
)
BLOCKS = (
    *CODES,
    "model.hidden_channels=8",
    "model.custom_width_str='4:4'",
    "model.enc_blocks='8d2,4'",
    "model.dec_blocks='4d2,8'",
)
ADVERSARIAL = (
    *CODES,
    "model.hidden_channels=4",
    "model.channel_mult=[2, 1]",
    "discriminator.widths=[6, 4]",
)
CRITIC = "discriminator.type=dcvae loss.adaptive_disc_weight=False"


def test_dcvae_changes_twins_and_decodes_its_tokens(tmp_path):
    first, second = (tmp_path / name for name in reversed(TWINS))
    cfg = ROOT / "egs" / "vqgan" / "dcvae_digits.cfg"
    call("train", first, cfg, *ADVERSARIAL)
    more = ("--resume-from", first / "logs-blocks", "train.total_train_steps=4")
    call("train", second, cfg, *ADVERSARIAL, *more)
    run = second / "logs-blocks"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    assert all(line["Losses/contrastive"] > 0 and line["Losses/discriminator"] > 0 for line in train)
    state = store.load(run / "checkpoints").state
    assert state["buffers"]["averaged"] == state["counters"]["updates"] == 4
    for mode in ("reconstruction", "encoding", "decoding"):
        call("synthesize", second, cfg, *ADVERSARIAL, f"synthesis.synthesis_mode={mode}")
    made = pictures(run / "synthesis-images" / "reconstructed", "image-*.png")
    np.testing.assert_array_equal(pictures(run / "synthesis-images" / "decoded"), made)
    assert made.std() > 0


def test_vqvae_of_metroplex_changes_twins_and_decodes_its_tokens(tmp_path):
    first, second = (tmp_path / name for name in reversed(TWINS))
    cfg = ROOT / "egs" / "vqgan" / "metroplex_vqvae_digits.cfg"
    call("train", first, cfg, *BLOCKS)
    call("train", second, cfg, *BLOCKS, "--resume-from", first / "logs-blocks", "train.total_train_steps=4")
    run = second / "logs-blocks"
    state = store.load(run / "checkpoints").state
    assert state["buffers"]["averaged"] == state["counters"]["updates"] == 4
    for mode in ("reconstruction", "encoding", "decoding"):
        call("synthesize", second, cfg, *BLOCKS, f"synthesis.synthesis_mode={mode}")
    made = pictures(run / "synthesis-images" / "reconstructed", "image-*.png")
    np.testing.assert_array_equal(pictures(run / "synthesis-images" / "decoded"), made)
    assert made.std() > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.architecture=metroplex", "enc_blocks"),
        ("data.dataset_source=mnist10k", "mnist10k_grey"),
        ("data.num_bits=5.", "num_bits"),
        ("data.target_res=9", "target_res"),
        ("loss.perceptual_weight=1.", "lpips_path"),
        ("train.accumulation_steps=2 loss.revive_below=0.1", "revive_below"),
        ("loss.revive_below=0.1 model.quantizer=lfq", "revive_below"),
        ("discriminator.type=dcvae discriminator.widths=[8,8]", "adaptive_disc_weight"),
        (CRITIC, "widths has 0 levels"),
        (f"{CRITIC} discriminator.widths=[8,8] discriminator.gan_resos=[2]", "gan_resos has 2"),
        ("loss.alternating=True train.accumulation_steps=2", "alternating"),
        ("discriminator.num_layers=9", "num_layers"),
        ("discriminator.type=stylegan data.target_res=12", "stylegan"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, capsys, override, message):
    cfg = write_tiny(tmp_path)
    with pytest.raises(SystemExit):
        call("train", tmp_path / "torch_impl", cfg, *override.split())
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
