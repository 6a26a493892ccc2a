"""A user's workflow: tune a saved model through adapters on sixteen pictures' tokens, in both twins."""

import hashlib
import shutil
from importlib import import_module

import numpy as np
import pytest
from safetensors.numpy import load_file

from dioscuri.checkpoint import store
from dioscuri.checkpoint.makers import open_tokenizer_folder
from dioscuri.cli.convert import main as convert
from dioscuri.families.vqgan.trained import open_tokenizer
from tests.support import tiny_maskgit, tiny_titok
from tests.support.adapters import write_base
from tests.support.engines import pictures
from tests.support.twins import ROOT, TWINS, call

pytestmark = pytest.mark.slow


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def words_of(folder, *more):
    """The command line of a run that tunes the model in `base`."""
    paths = [f"data.{split}_data_path={folder / 'tokens'}" for split in ("train", "val", "synthesis")]
    options = ("lora.rank=2", f"lora.base={folder / 'base'}", "optimizer.learning_rate=0.03")
    run = ("run.name=tuned", "val.report_samples=0", f"data.tokenizer_path={folder / 'logs-tiny'}")
    return [folder / "tiny_maskgit.cfg", *run, *paths, *options, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model, sixteen pictures' tokens, and in each twin a run that tunes the model."""
    folder = tmp_path_factory.mktemp("lora")
    tiny_maskgit.write_tiny(folder)
    tokenizer = tiny_maskgit.write_tokenizer(folder)
    sha256 = open_tokenizer_folder(tokenizer).sha256
    tiny_maskgit.write_tokens(folder / "tokens", 16, sha256=sha256)
    write_base(folder / "base", tiny_maskgit.tiny())
    before = hashes(folder / "base")
    for twin in TWINS:
        call("train", folder / twin, *words_of(folder, "train.total_train_steps=6"))
    assert hashes(folder / "base") == before
    return folder


def tokens_of(model):
    noise = model.draw_noise("generate", 8)
    return model.generate(8, noise=noise, decode=False)


@pytest.mark.parametrize("twin", TWINS)
def test_a_fine_tune_changes_samples_and_leaves_the_base(folder, twin):
    dio, run = import_module(f"dioscuri.{twin.removesuffix('_impl')}"), folder / twin / "logs-tuned"
    base, tuned = dio.load(folder / "base"), dio.load(run)
    assert (tokens_of(base) != tokens_of(tuned)).any()
    stored = store.load(run / "checkpoints").state
    n = tuned.num_parameters - base.num_parameters
    assert sum(array.size for array in stored["model"].values()) == n
    assert sum(array.size for array in stored["optimizer"].values()) == 2 * n
    tuned.remove_adapter()
    for name, array in base._network.weights().items():
        np.testing.assert_array_equal(tuned._network.weights()[name], array)


@pytest.mark.parametrize(("twin", "other"), [TWINS, TWINS[::-1]])
def test_adapters_of_a_run_open_in_the_other_twin(folder, twin, other):
    dio = import_module(f"dioscuri.{other.removesuffix('_impl')}")
    run = folder / twin / "logs-tuned"
    assert len(load_file(run / "adapter" / "adapter_model.safetensors")) == 28
    beside = dio.load(folder / "base").load_adapter(run)
    np.testing.assert_array_equal(tokens_of(beside), tokens_of(dio.load(run)))


@pytest.mark.parametrize("twin", TWINS)
def test_a_run_of_adapters_goes_on_and_synthesises(folder, twin, tmp_path):
    home = tmp_path / twin
    shutil.copytree(folder / twin / "logs-tuned", home / "logs-tuned")
    call("train", home, *words_of(folder, "train.total_train_steps=8"))
    assert store.steps(home / "logs-tuned" / "checkpoints")[-1] == 8
    words = ("synthesis.synthesis_mode=generation", "synthesis.n_generation_batches=1")
    call("synthesize", home, folder / "tiny_maskgit.cfg", "run.name=tuned", *words)
    assert list((home / "logs-tuned").rglob("image-*.png"))


def test_a_run_of_adapters_is_written_as_a_whole_model(folder, tmp_path):
    run, dio = folder / "torch_impl" / "logs-tuned", import_module("dioscuri.torch")
    expected = dio.load(run).merge_adapter()._network.weights()
    for layout in ([], ["--to", "open-muse"]):
        out = tmp_path / "-".join(["out", *layout])
        convert([str(run), "--to-folder", str(out), "--step", "best", *layout])
        for name, array in dio.load(out)._network.weights().items():
            np.testing.assert_array_equal(array, expected[name])


def test_adapters_of_a_tokenizer_are_trained(tmp_path):
    base = write_base(tmp_path / "base", tiny_titok.tiny())
    home, cfg = tmp_path / "torch_impl", tiny_titok.write_tiny(tmp_path)
    words = ("run.name=tuned", "lora.rank=2", f"lora.base={base}", "optimizer.learning_rate=0.03")
    call("train", home, cfg, *words, "train.total_train_steps=4")
    call("synthesize", home, cfg, *words)
    run, dio = home / "logs-tuned", import_module("dioscuri.torch")
    assert list(run.rglob("*.png"))
    tuned, plain = dio.load(run), dio.load(base)
    pixels = pictures(0)
    assert (tuned.reconstruct(pixels) != plain.reconstruct(pixels)).any()
    saved = dio.load(base).load_adapter(run)
    np.testing.assert_array_equal(tuned.reconstruct(pixels), saved.reconstruct(pixels))
    for name, array in plain._network.weights().items():
        np.testing.assert_array_equal(tuned._network.weights()[name], array)
    whole = saved.merge_adapter()._network.weights()
    for name, array in open_tokenizer(run).weights.items():  # as the tokenizer of a token model
        np.testing.assert_array_equal(whole[name], array)


def refusal(capsys, home, words):
    """The one line with which training ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call("train", home, *words)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_another_base_or_rank_is_refused(folder, tmp_path, capsys):
    home = tmp_path / "torch_impl"
    shutil.copytree(folder / "torch_impl" / "logs-tuned", home / "logs-tuned")
    other = write_base(tmp_path / "other", tiny_maskgit.tiny(), seed=4)
    longer = words_of(folder, "train.total_train_steps=8", f"lora.base={other}")
    assert "holds adapters of the run 'tiny' at step 0, but" in refusal(capsys, home, longer)
    assert "[lora] rank = 3 would change the architecture" in refusal(
        capsys, home, words_of(folder, "lora.rank=3")
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lora.base=", "[lora] base is empty: give the run folder"),
        ("lora.base=/nowhere", "[lora] base '/nowhere' does not exist"),
        ("lora.targets=['mlp']", "no dense layer 'mlp'"),
        ("train.shard=optimizer", "[train] shard is 'optimizer', but every device holds the whole base"),
        ("train.shard=parameters", "[train] shard is 'parameters', but every device holds the whole base"),
        ("model.intermediate_size=32", "base tensor 'transformer_layers.0.ffn.mid_mlp_layer_norm.weight'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(folder, tmp_path, capsys, given, message):
    assert message in refusal(capsys, tmp_path / "torch_impl", words_of(folder, given))


@pytest.mark.parametrize(
    ("cfg", "words", "message"),
    [
        ("metroplex/digits.cfg", [], "[lora] targets: this network has no transformer"),
        ("vqgan/digits.cfg", ["discriminator.type=none", "loss.revive_below=0"], "has no transformer"),
        ("hierarchical_vae/digits.cfg", [], "section [lora] is unknown: this family has run, data, model"),
        ("vqgan/titok_mnist10k.cfg", [], "[lora] rank: adapters leave the codebook alone"),
    ],
)
def test_models_without_a_place_for_adapters_are_refused(tmp_path, capsys, cfg, words, message):
    given = (ROOT / "egs" / cfg, "lora.rank=2", "lora.base=nowhere", *words)
    assert message in refusal(capsys, tmp_path / "torch_impl", given)
