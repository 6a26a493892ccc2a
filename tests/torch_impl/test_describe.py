"""`dioscuri describe` reports, without an engine, what an engine holds."""

import json

import pytest

from dioscuri.cli.describe import main
from dioscuri.hparams import load
from dioscuri.places import examples
from dioscuri.registry import family_module, family_names
from dioscuri.run.sizes import sizes
from torch_impl.engine import Engine


@pytest.mark.parametrize("family", family_names())
def test_it_tells_what_the_engine_holds(capsys, family):
    words = ["data.tokenizer_path="] if family in ("maskgit", "sundae") else []
    cfg = examples() / f"{family}/digits.cfg"
    state = Engine(load(cfg, words)).state_to_numpy()
    main([str(cfg), *words, "--json"])
    facts, held = json.loads(capsys.readouterr().out), sizes(state, {})
    assert {name: facts[name] for name in held} == held
    described = family_module(family, "description").describe(load(cfg, words))
    assert dict(described.shapes) == {name: value.shape for name, value in state["model"].items()}
