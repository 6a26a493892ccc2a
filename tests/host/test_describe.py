"""`dioscuri describe` reports the model of a configuration or a folder, from its plan alone."""

import json
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dioscuri import torch as torch_face
from dioscuri.cli.describe import main
from dioscuri.cli.runs import train_command
from dioscuri.errors import UserError
from dioscuri.places import examples
from dioscuri.plans.footprint import largest_batch, read_memory
from dioscuri.twins import Twin
from tests.support.fake_engine import FakeEngine
from tests.support.tiny import write_tiny

CLASSIFIER = "egs/classifier/digits.cfg"
CONFIGURATIONS = sorted(examples().rglob("*.cfg"))


def description_of(capsys, *words) -> dict:
    main([*map(str, words), "--quick", "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_configuration_is_described(capsys, path):
    facts = description_of(capsys, path)
    assert facts["parameters"] == sum(facts["parts"].values()) > 0
    assert facts["optimizer_bytes"] == 2 * facts["weights_bytes"] == 8 * facts["parameters"]
    assert all(rows for rows in facts["layers"].values())


def test_levels_and_latents_are_those_of_the_plan(capsys):
    facts = description_of(capsys, "egs/hierarchical_vae/digits.cfg")
    levels = facts["layers"]["top-down"]
    assert sum(row["latent groups"] for row in levels) == facts["latent_groups"]
    grids = [[int(side) for side in row["grid"].split("x")] for row in levels]
    values = [
        prod(grid) * row["variates"] * row["latent groups"] for grid, row in zip(grids, levels, strict=True)
    ]
    assert sum(values) == facts["latent_values"]
    more = description_of(
        capsys, "egs/hierarchical_vae/digits.cfg", "model.down_latent_variates=[9, 8, 8, 8]"
    )
    assert more["latent_values"] > facts["latent_values"]


def test_a_run_is_described_with_its_checkpoints(tmp_path, capsys):
    train_command(
        Twin("fake", FakeEngine, FakeEngine),
        tmp_path,
        [str(write_tiny(tmp_path)), "train.total_train_steps=2"],
    )
    capsys.readouterr()
    facts = description_of(capsys, tmp_path / "logs-tiny")
    assert (facts["name"], facts["family"], facts["checkpoints"]) == ("tiny", "hierarchical_vae", [2])
    main([str(tmp_path / "logs-tiny"), "--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny, a model of family hierarchical_vae"
    assert f"parameters: {facts['parameters']:,} (" in lines[1]
    assert lines[-1] == "checkpoints, batches trained on: 2"


def test_what_cannot_be_described_is_one_line(tmp_path):
    for words, message in (
        ([str(tmp_path)], "is neither a run's folder"),
        (["nothing.cfg"], "configuration nothing.cfg does not exist"),
        (["egs/vqgan/digits.cfg", "model.hiden_channels=3"], "did you mean 'hidden_channels'"),
        (["egs/vqgan/digits.cfg", "--jsn"], "did you mean '--json'"),
        (["egs/hierarchical_vae/digits.cfg", "data.target_res=9"], "target_res 9 is not divisible"),
        (["a.cfg", "b.cfg"], "more than one configuration"),
        ([CLASSIFIER, "--quick", "--memory", "24GB"], "--quick leaves out the step"),
        (
            [CLASSIFIER, "--memory", "24"],
            "--memory '24' is not an amount of memory: give a number and its unit",
        ),
        ([CLASSIFIER, "--memory", "0GB"], "--memory '0GB' is not an amount of memory"),
        ([CLASSIFIER, "--batch", "0"], "--batch '0' must be a whole number from 1"),
        ([CLASSIFIER, "--devices", "two"], "--devices 'two' must be a whole number from 1"),
        ([CLASSIFIER, "--batch", "7", "--devices", "2"], "batch 7 must be a multiple of devices x acc"),
    ):
        with pytest.raises(UserError) as error:
            main(words)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert not list(Path(tmp_path).iterdir())


def test_wrong_questions_in_python_are_one_line():
    for where, asked, message in (
        (None, {}, "describe takes a model, a .cfg file or a folder, not None"),
        (CLASSIFIER, {"memory": -5}, "memory '-5' is not an amount of memory"),
        (CLASSIFIER, {"memory": float("nan")}, "memory 'nan' is not an amount of memory"),
        (CLASSIFIER, {"batch": 2.5}, "batch must be a whole number of at least 1, not 2.5"),
    ):
        with pytest.raises(UserError, match=message):
            torch_face.describe(where, **asked)


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("24 GiB", 24 * 2**30), ("1.5kB", 1500), ("80000MB", 8 * 10**10)]
)
def test_memory_is_read_with_its_unit(text, size):
    assert read_memory(text, "--memory") == size


@given(
    fixed=st.integers(0, 10**6),
    slope=st.integers(1, 10**4),
    floor=st.integers(0, 10**6),
    memory=st.integers(1, 10**8),
    most=st.integers(1, 10**5),
)
def test_the_largest_batch_fits_and_few_are_tried(fixed, slope, floor, memory, most):
    """Of a peak that first is that of another phase of the step."""
    tried = []

    def peak(n):
        tried.append(n)
        return max(floor, fixed + slope * n)

    n = largest_batch(peak, memory, most)
    best = min((memory - fixed) // slope, most) if floor <= memory else 0
    assert max(0, best) * 0.98 - 1 <= n <= max(0, best)
    assert len(tried) <= 30
