"""Outputs have their settings next to them, and outputs of different settings never share a folder."""

import json

import numpy as np
import pytest

from dioscuri.errors import UserError
from dioscuri.families.token_models.modes import generation
from dioscuri.outputs.settings import settings_in
from dioscuri.run.synthesize import synthesize
from dioscuri.run.train import train
from tests.host.test_run_drawing import CHECKPOINT, Engine, context_of


def draw(folder, *options, engine=None):
    """Sample with a token model."""
    options = tuple(f"synthesis.{option}" for option in options)
    generation.generate(context_of(folder, engine or Engine(), *options), None, CHECKPOINT)


def folders(parent):
    """Names of the folders, with the number of pictures in each."""
    return {path.name: len(list(path.glob("image-*.png"))) for path in sorted(parent.iterdir())}


def test_sixty_threes_and_then_twenty_fives_are_not_eighty_or_sixty_pictures(tmp_path, capsys):
    draw(tmp_path, "classes=[3]", "n_pictures=60", "batch_size=20")
    draw(tmp_path, "classes=[5]", "n_pictures=20", "batch_size=20")
    images = tmp_path / "synthesis-images"
    second = "generated-n_pictures=20-classes=5"
    assert folders(images) == {"generated": 60, second: 20}
    assert f"{images / 'generated'} holds outputs of other settings: these go to" in capsys.readouterr().out
    for name, n, label in (("generated", 60, 3), (second, 20, 5)):
        labels = json.loads((images / name / "labels.json").read_text())
        assert list(labels.values()) == [label] * n
        assert settings_in(images / name)["options"]["synthesis"]["classes"] == [label]


def test_the_same_settings_give_the_same_folder(tmp_path):
    for _ in range(2):
        draw(tmp_path, "n_pictures=8")
        draw(tmp_path, "n_pictures=4")
    assert folders(tmp_path / "synthesis-images") == {"generated": 8, "generated-n_pictures=4": 4}


def test_an_interrupted_call_continues_although_another_came_between(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, "n_pictures=12", engine=Engine(2))
    draw(tmp_path, "n_pictures=4")
    engine = Engine()
    draw(tmp_path, "n_pictures=12", engine=engine)
    assert [step for step, _, _ in engine.calls] == [2]
    assert "continuing after 8 pictures" in capsys.readouterr().out
    assert folders(tmp_path / "synthesis-images") == {"generated": 12, "generated-n_pictures=4": 4}


def test_a_sheet_alone_does_not_tell_of_pictures_that_it_did_not_draw(tmp_path):
    draw(tmp_path, "classes=[3]", "n_pictures=6")
    before = settings_in(tmp_path / "synthesis-images" / "generated")
    draw(tmp_path, "classes=[5]", "n_pictures=6", "sheet_only=True")
    assert settings_in(tmp_path / "synthesis-images" / "generated") == before
    assert folders(tmp_path / "synthesis-images") == {
        "generated": 6,
        "generated-sheet_only=True-classes=5": 0,
    }


def test_a_call_that_failed_at_once_does_not_take_the_name(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, "n_pictures=50", "batch_size=50", engine=Engine(0))
    draw(tmp_path, "n_pictures=4")
    assert folders(tmp_path / "synthesis-images") == {"generated": 4}


def test_pictures_whose_settings_nobody_noted_stay_alone(tmp_path):
    old = tmp_path / "synthesis-images" / "generated"
    old.mkdir(parents=True)
    (old / "image-0000.png").write_bytes(b"of version 0.1.0")
    draw(tmp_path, "n_pictures=4")
    ((_, before), (name, n)) = folders(old.parent).items()
    assert (before, n) == (1, 4)
    assert name.startswith("generated-")
    assert (old / "image-0000.png").read_bytes() == b"of version 0.1.0"


@pytest.fixture
def trained(make_run):
    """Make contexts of a hierarchical VAE's run with checkpoints."""
    train(make_run("train.total_train_steps=3"))
    return lambda mode, *options: make_run(f"synthesis.synthesis_mode={mode}", *options)


MODES = ("div_stats", "generation", "reconstruction", "encoding", "decoding", "partial")


def test_every_folder_of_every_mode_says_what_made_it(trained):
    for mode in MODES:
        synthesize(context := trained(mode))
    run = context.directory.path
    written = {
        path.parent for parent in ("latents", "synthesis-images") for path in run.glob(f"{parent}/*/*")
    }
    assert {folder.name for folder in written} == {
        "div_stats", "generated", "reconstructed", "encodings_seed_3", "decoded", "partial"
    }  # fmt: skip
    for folder in written:
        settings = settings_in(folder)
        assert settings["mode"] in MODES
        assert settings["checkpoint"]["path"] == "checkpoints/step-00000003"
        assert (settings["weights"], settings["twin"], settings["seed"]) == ("average", "fake", 3)
        assert set(settings["versions"]) >= {"python", "numpy"}
        assert settings["options"]["synthesis"]
        assert settings["options"]["data"]
    splits = {settings_in(folder)["mode"]: settings_in(folder).get("split") for folder in written}
    assert splits == {
        "div_stats": "train", "generation": None, "reconstruction": "test", "encoding": "train",
        "decoding": None, "partial": "test",
    }  # fmt: skip
    assert settings_in(run)["mode"] == "report"


def test_numbers_under_masks_can_be_distinguished_from_others(trained):
    synthesize(trained("div_stats"))
    synthesize(context := trained("reconstruction", "synthesis.importance_samples=2"))
    masked = ("synthesis.mask_reconstruction=True", "synthesis.importance_samples=2")
    synthesize(trained("reconstruction", *masked))
    images = context.directory.images
    assert {path.name for path in images.iterdir()} == {
        "reconstructed",
        "reconstructed-mask_reconstruction=True",
    }
    settings = settings_in(images / "reconstructed-mask_reconstruction=True")
    assert settings["masks"]["statistics"] == "latents/div_stats/div_stats.npz"
    assert settings_in(images / "reconstructed")["masks"] is None
    plain, other = (
        json.loads((images / name / "report.json").read_text())["importance_weighted_bound"]
        for name in ("reconstructed", "reconstructed-mask_reconstruction=True")
    )
    # The statistics keep 2 of 4 variates of the second group and all 3 of the third, 1.5 of 3 nats.
    assert plain - other == pytest.approx(1.5 / (64 * np.log(2)))


def test_a_killed_generation_of_a_latent_model_continues(trained, monkeypatch, capsys):
    monkeypatch.setattr("dioscuri.families.latent_models.modes.generation.N_IN_ROW", 4)
    options = ("synthesis.n_generation_batches=4", "synthesis.temperature_settings=[0.5]")
    context = trained("generation", *options)
    generate, calls = context.engine.generate, []

    def breaking(batch, *, step, **arguments):
        calls.append(step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate(batch, step=step, **arguments)

    context.engine.generate = breaking
    with pytest.raises(KeyboardInterrupt):
        synthesize(context)
    synthesize(context)
    assert calls == [0, 1, 2, 3, 0, 3]
    assert "continuing after 12 pictures" in capsys.readouterr().out
    assert len(list((context.directory.images / "generated").glob("setup-0-image-*.png"))) == 16


def test_decoding_does_not_guess_which_encodings_are_meant(trained):
    keep = "synthesis.variate_masks_quantile=1"
    for n in (5, 6):
        synthesize(context := trained("encoding", keep, f"synthesis.n_samples={n}"))
    with pytest.raises(UserError, match=r"encodings_seed_3, .*encodings_seed_3-n_samples=6 were made with"):
        synthesize(trained("decoding"))
    source = context.directory.latents / "encodings_seed_3-n_samples=6"
    synthesize(trained("decoding", f"synthesis.encodings_path={source}"))
    folder = context.directory.images / "decoded"
    assert len(list(folder.glob("image-*.png"))) == 6
    assert settings_in(folder)["encodings"]["path"] == str(source)
