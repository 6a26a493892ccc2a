"""The benchmark measures every family in both twins, and counts operations."""

import json
from pathlib import Path

import pytest

from dioscuri.errors import UserError
from tests.support import tiny, tiny_maskgit, tiny_sundae, tiny_vqgan
from tools import benchmark

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WHAT = {
    "vae": "generate",
    "vqgan": "decode",
    "maskgit": "train",
    "sundae": "train",
    "metroplex": "generate",
    "classifier": "encode",
}
WRITERS = {"vae": tiny, "vqgan": tiny_vqgan, "maskgit": tiny_maskgit, "sundae": tiny_sundae}


@pytest.fixture
def measure(tmp_path, monkeypatch, capsys):
    """Runs the benchmark with caches of this test and returns its output."""
    for name in ("DIOSCURI_CACHE", "JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(benchmark, "UNIT_SIZE", 64)

    def run(kind, twin, what, batch=2):
        shipped = ROOT / "egs" / kind / "digits.cfg"
        cfg = WRITERS[kind].write_tiny(tmp_path) if kind in WRITERS else shipped
        words = ["--cfg", str(cfg), "--backend", twin, "--what", what, "--batch", str(batch), "--steps", "1"]
        benchmark.main(words)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


@pytest.mark.parametrize("kind", WHAT)
def test_twins_are_measured_at_the_same_work(kind, measure):
    found = {twin: measure(kind, twin, WHAT[kind]) for twin in ("torch", "jax")}
    for numbers in found.values():
        assert numbers["ms_per_step"] > 0
        assert numbers["images_per_second"] == pytest.approx(2e3 / numbers["ms_per_step"], rel=0.01, abs=0.01)
        share = numbers["limit_ms"] / numbers["ms_per_step"]
        assert numbers["share_of_limit"] == pytest.approx(share, rel=0.1, abs=2e-3)
        assert numbers["first_call_seconds"] > 0
        assert 0 < numbers["started_memory_mb"] <= numbers["peak_memory_mb"]
    assert found["torch"]["parameters"] == found["jax"]["parameters"]


def test_operations_are_those_of_the_products(tmp_path):
    """Two per weight and token, four per pair of tokens and channel; three times as many with gradients."""
    cfg = str(tiny_maskgit.write_tiny(tmp_path))
    forward = benchmark.count_flops(cfg, ["synthesis.steps=1", "synthesis.guidance_scale=0."], "generate")
    training = benchmark.count_flops(cfg, [], "train")
    L, width, inner, codes, classes = 16 + 1, 16, 24, 16, 10
    layer = 2 * (4 * width**2 + 3 * width * inner) * L + 4 * width * L**2
    assert forward == 2 * layer + 2 * (width**2 + width * codes) * (L - 1)
    whole_head = forward + 2 * width * (classes + 1) * (L - 1)
    assert training == pytest.approx(3 * whole_head, rel=0.05)


def test_what_a_family_cannot_do_is_named(measure):
    with pytest.raises(UserError, match="unknown for this family: train, encode, decode, reconstruct"):
        measure("vqgan", "torch", "generate")
