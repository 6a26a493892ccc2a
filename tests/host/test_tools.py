"""Tools that measure."""

import json

import pytest

from tests.support.twins import ROOT
from tools.plain_layers import main


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_titok_is_timed_beside_plain_layers(twin, capsys):
    small = {family: str(ROOT / "egs" / family / "titok_mnist10k.cfg") for family in ("vqgan", "maskgit")}
    words = ["--tokenizer", small["vqgan"], "--generator", small["maskgit"]]
    main(["--backend", twin, "--rounds", "1", "--layers", "1", "--steps", "1", *words])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["work"] for row in rows] == ["encode + decode", "generate"]
    assert all(row["ours_ms"] > 0 and row["plain_ms"] > 0 for row in rows)
