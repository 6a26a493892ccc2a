"""The synthesis modes, with an engine that needs no framework."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from dioscuri.errors import UserError
from dioscuri.files import read_sealed_json, write_sealed_json
from dioscuri.run.synthesize import synthesize
from dioscuri.run.train import train


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def trained(make_run):
    """Make contexts of a run with checkpoints."""
    train(make_run("train.total_train_steps=3"))
    return lambda mode, *overrides: make_run(f"synthesis.synthesis_mode={mode}", *overrides)


def test_reconstruction_writes_pictures_numbers_and_charts(trained, capsys):
    context = trained("reconstruction", "synthesis.importance_samples=4")
    synthesize(context)
    folder = context.directory.images / "reconstructed"
    assert len(list(folder.glob("image-*.png"))) == len(list(folder.glob("target-*.png"))) == 10
    made = picture(folder / "image-0003.png")
    assert (made == context.sets.test.gather([3])[0, ..., 0]).all()
    report = json.loads((folder / "report.json").read_text())
    assert report["ssim"] == pytest.approx(1)
    bits = 1 / (64 * np.log(2))
    expected = context.sets.test.gather(np.arange(10)).astype(float).mean()
    assert report["negative_elbo"] == pytest.approx((expected + 3) * bits)
    # Two of the four samples have weight exp(-3), two exp(-3.3).
    weight = (np.exp(-3) + np.exp(-3.3)) / 2
    assert report["importance_weighted_bound"] == pytest.approx((expected - np.log(weight)) * bits)
    assert (folder / "contact-sheet.png").exists()
    assert (folder / "kl.png").exists()
    assert "SSIM" in capsys.readouterr().out


def test_generation_writes_every_setting(trained):
    context = trained("generation")
    synthesize(context)
    folder = context.directory.images / "generated"
    assert len(list(folder.glob("setup-*-image-*.png"))) == 3 * 2 * 4
    assert (picture(folder / "setup-0-image-0007.png") == 51).all()
    assert (picture(folder / "setup-2-image-0000.png") == 84).all()
    assert (folder / "contact-sheet.png").exists()
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["run"] == context.hparams.run.name
    assert settings["checkpoint"]["step"] == 3
    assert settings["options"]["synthesis"]["batch_size"] == context.hparams.synthesis.batch_size


def test_statistics_choose_the_variates_that_encoding_keeps(trained):
    synthesize(trained("div_stats"))
    context = trained("encoding", "synthesis.variate_masks_quantile=0.5")
    with np.load(context.directory.latents / "div_stats" / "div_stats.npz", allow_pickle=False) as archive:
        actual = {name: archive[name] for name in archive.files}
    assert {name: values.shape for name, values in actual.items()} == {
        "top_down.blocks.0": (4,),
        "top_down.blocks.1": (4,),
        "top_down.blocks.2": (3,),
    }
    assert np.allclose(actual["top_down.blocks.2"] * np.log(2), [201, 202, 203])
    synthesize(context)
    index = json.loads((context.directory.latents / "encodings_seed_3" / "index.json").read_text())
    # Above the median of 1..4, 101..104, 201..203, which is 102.
    assert index["header"]["kept"] == {"top_down.blocks.1": [2, 3], "top_down.blocks.2": [0, 1, 2]}
    assert index["shards"][0]["keys"] == list(context.sets.train.keys[:10])


def test_encodings_keep_captions(trained):
    context = trained("encoding", "synthesis.variate_masks_quantile=1")
    n = len(context.sets.train)
    ids = np.arange(3 * n, dtype=np.int32).reshape(n, 3)
    described = replace(context.sets.train, captions=ids)
    synthesize(replace(context, sets=SimpleNamespace(train=described)))
    folder = context.directory.latents / "encodings_seed_3"
    header = json.loads((folder / "index.json").read_text())["header"]
    kept = load_file(folder / "shard-00000.safetensors")["caption"]
    assert header["caption_length"] == 3
    np.testing.assert_array_equal(kept, ids[: len(kept)])
    assert len(kept) == header["n_pictures"]


def test_encoding_without_statistics_is_refused_unless_all_is_kept(trained):
    with pytest.raises(UserError, match="div_stats first"):
        synthesize(trained("encoding"))
    synthesize(trained("encoding", "synthesis.variate_masks_quantile=1"))


def test_decoding_reads_what_encoding_wrote(trained, tmp_path):
    context = trained("encoding", "synthesis.variate_masks_quantile=1", "synthesis.split=test")
    synthesize(context)
    synthesize(trained("decoding"))
    folder = context.directory.images / "decoded"
    level = context.sets.test.gather([5]).astype(float).mean()
    assert (picture(folder / "image-0005.png") == int(level)).all()
    names = json.loads((folder / "names.json").read_text())
    assert names["image-0005"] == context.sets.test.keys[5]


def test_interrupted_encoding_continues(trained, monkeypatch, capsys):
    monkeypatch.setattr("dioscuri.families.latent_models.modes.encoding.SHARD_BYTES", 1)
    overrides = ("synthesis.variate_masks_quantile=1", "synthesis.n_samples=12")
    context = trained("encoding", *overrides)
    encode, calls = context.engine.encode, []

    def breaking(batch, **arguments):
        calls.append(arguments["step"])
        if len(calls) == 3:
            raise MemoryError
        return encode(batch, **arguments)

    context.engine.encode = breaking
    with pytest.raises(MemoryError):
        synthesize(context)
    with pytest.raises(UserError, match="unfinished"):
        synthesize(trained("decoding"))
    context = trained("encoding", *overrides)
    synthesize(context)
    assert "after 8 pictures" in capsys.readouterr().out
    index = json.loads((context.directory.latents / "encodings_seed_3" / "index.json").read_text())
    assert [key for shard in index["shards"] for key in shard["keys"]] == list(context.sets.train.keys[:12])


def test_encodings_of_another_architecture_are_refused(trained, make_run):
    context = trained("encoding", "synthesis.variate_masks_quantile=1")
    synthesize(context)
    encodings = context.directory.latents / "encodings_seed_3"
    other, source = "model.down_latent_variates=[4, 5]", f"synthesis.encodings_path={encodings}"
    train(make_run("train.total_train_steps=3", other, name="other"))
    with pytest.raises(UserError, match="another architecture"):
        synthesize(make_run("synthesis.synthesis_mode=decoding", other, source, name="other"))


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_encodings_are_named(trained, damage):
    context = trained("encoding", "synthesis.variate_masks_quantile=1")
    synthesize(context)
    shard = context.directory.latents / "encodings_seed_3" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1]) if damage == "truncated" else shard.unlink()
    with pytest.raises(UserError, match="shard-00000"):
        synthesize(trained("decoding"))


def shard_entry(**changes):
    return lambda index: index["shards"][0].update(changes)


def header_entry(**changes):
    return lambda index: index["header"].update(changes)


def test_index_that_is_none_is_named(trained):
    """Foreign JSON, and every kind of wrong value in an index whose checksum is right."""
    context = trained("encoding", "synthesis.variate_masks_quantile=1")
    synthesize(context)
    path = context.directory.latents / "encodings_seed_3" / "index.json"
    index, _ = read_sealed_json(path, "encodings")
    for content in ("[]", "{}", '{"header": {}, "complete": true, "shards": null}'):
        path.write_text(content)
        for mode in ("encoding", "decoding"):
            with pytest.raises(UserError, match="is not an index of encodings"):
                synthesize(trained(mode, "synthesis.variate_masks_quantile=1"))
    for change in (
        shard_entry(file=3), shard_entry(file="../x"), shard_entry(keys=4), shard_entry(keys=[1]),
        shard_entry(sha256=None), shard_entry(batches="2"), lambda index: index.update(shards=[[]]),
        header_entry(kept=[]), header_entry(kept={"a": "b"}), header_entry(kept={"a": [-1]}),
        header_entry(latent_shapes={}), header_entry(latent_shapes=None),
        lambda index: index["header"].pop("architecture"),
    ):  # fmt: skip
        changed = copy.deepcopy(index)
        change(changed)
        write_sealed_json(path, changed)
        with pytest.raises(UserError, match="is not an index of encodings"):
            synthesize(trained("decoding", "synthesis.variate_masks_quantile=1"))
    path.write_text(json.dumps({**index, "sha256": "00", "complete": False}))
    with pytest.raises(UserError, match="does not match its sha256"):
        synthesize(trained("decoding", "synthesis.variate_masks_quantile=1"))


def test_damaged_statistics_are_named(trained):
    synthesize(trained("div_stats"))
    context = trained("encoding")
    archive = context.directory.latents / "div_stats" / "div_stats.npz"
    archive.with_suffix(".json").write_text("[]")
    whole = archive.read_bytes()
    for kept in (whole[: len(whole) // 2], whole[:3], b""):
        archive.write_bytes(kept)
        with pytest.raises(UserError, match="is damaged"):
            synthesize(context)


def test_untrained_run_has_nothing_to_synthesise_from(make_run):
    with pytest.raises(UserError, match="holds no checkpoint"):
        synthesize(make_run())
