"""A tokenizer's saved folder can replace its run, and a saved prior includes its tokenizer."""

import numpy as np
import pytest

from dioscuri.checkpoint import store
from dioscuri.checkpoint.makers import check_made_by, named
from dioscuri.checkpoint.pretrained import TOKENIZER, is_folder, origin_of, write_folder
from dioscuri.checkpoint.trained_run import open_run
from dioscuri.cli.convert import main as convert
from dioscuri.errors import UserError
from dioscuri.families.maskgit.transformers import initial_parameters, make_plan
from dioscuri.families.vqgan.trained import open_tokenizer
from tests.support import tiny_maskgit


@pytest.fixture
def run(tmp_path):
    """The run of a tokenizer."""
    return tiny_maskgit.write_tokenizer(tmp_path)


@pytest.fixture
def saved(run, tmp_path):
    """The folder to which it was saved."""
    convert([str(run), "--to-folder", str(tmp_path / "saved")])
    return tmp_path / "saved"


def test_a_saved_tokenizer_is_the_run_s(run, saved):
    first, second = open_tokenizer(run), open_tokenizer(saved)
    assert first.plan == second.plan
    assert named(first) == named(second)
    for name, array in first.weights.items():
        np.testing.assert_array_equal(second.weights[name], array)


def test_tokens_of_the_run_belong_to_the_saved_folder(run, saved):
    header = {"tokenizer": named(open_tokenizer(run))}
    check_made_by(header, open_tokenizer(saved), "here")
    tokenizer = open_tokenizer(run)
    tuned = {name: array + 1 for name, array in tokenizer.weights.items()}
    write_folder(saved, tokenizer.hparams, tuned)
    with pytest.raises(UserError, match="tokens here were made by"):
        check_made_by(header, open_tokenizer(saved), "here")


def test_a_folder_of_another_family_is_reported(tmp_path):
    hparams = tiny_maskgit.tiny()
    write_folder(tmp_path / "prior", hparams, weights_of(hparams))
    with pytest.raises(UserError, match="is a model of family 'maskgit': give one of 'vqgan'"):
        open_tokenizer(tmp_path / "prior")


def weights_of(hparams):
    return initial_parameters(make_plan(hparams.model, hparams.data.grid, hparams.data.codebook_size), 0)


@pytest.mark.parametrize("kind", ["run", "saved"])
def test_a_saved_prior_brings_its_tokenizer(run, saved, tmp_path, kind):
    """From a run to a folder and back to a run, which samples without further options."""
    hparams = tiny_maskgit.tiny()
    write_folder(tmp_path / "first", hparams, weights_of(hparams))
    path = {"run": run, "saved": saved}[kind]
    convert([str(tmp_path / "first"), "--run", str(tmp_path / "logs-prior"), f"data.tokenizer_path={path}"])
    convert([str(tmp_path / "logs-prior"), "--to-folder", str(tmp_path / "second")])
    assert is_folder(tmp_path / "second" / TOKENIZER)
    assert origin_of(tmp_path / "second")["run"] == "prior"
    convert([str(tmp_path / "second"), "--run", str(tmp_path / "logs-again")])
    options = open_run(tmp_path / "logs-again", "maskgit", "here")
    assert options.data.tokenizer_path == str(tmp_path / "second" / TOKENIZER)
    assert named(open_tokenizer(tmp_path / "second" / TOKENIZER)) == named(open_tokenizer(run))
    again, first = (
        store.load(tmp_path / f"logs-{n}" / "checkpoints").state["ema"] for n in ("again", "prior")
    )
    assert all(np.array_equal(again[name], array) for name, array in first.items())
