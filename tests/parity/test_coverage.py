"""Everything public is compared: options from the dataclasses, names from the twins' sources."""

import ast
import re
import sys
from pathlib import Path

import pytest

from dioscuri import hparams
from tests.parity import denoiser_cases, metroplex_cases, transformer_cases
from tests.parity import test_classifier as classifier
from tests.parity import test_maskgit_training as masked_tokens
from tests.parity import test_sundae_training as sundae
from tests.parity import test_tokenizers as tokenizers
from tests.parity import test_vqgan_training as vqgan
from tests.parity.model_cases import CASES, make
from tests.parity.option_cases import HOST_ONLY, enumerated_options, load_case, option_cases
from tests.support import denoisers, transformers
from tests.support.models import Torch

ROOT = Path(__file__).parents[2]
HARNESSES = [
    ROOT / "tests" / "support" / f"{name}.py"
    for name in (
        "twin_models",
        "models",
        "transformers",
        "denoisers",
        "tokenizers",
        "gan",
        "samplers",
        "sundae",
    )
]
COMPARED = [*HARNESSES, *(ROOT / "tests" / "parity").glob("*.py"), *(ROOT / "tests" / "golden").glob("*.py")]
GOLDEN_CONFIGURATIONS = sorted((ROOT / "tests" / "golden" / "cases").glob("hierarchical_vae/*/hparams.cfg"))


def values_in_cases() -> set[tuple[str, object]]:
    """(option, value) in every parity case and every golden configuration."""
    loaded = [load_case(case) for case in option_cases()] + [
        hparams.load(path) for path in GOLDEN_CONFIGURATIONS
    ]
    loaded += [metroplex_cases.make(case)[0] for case in metroplex_cases.CASES]
    return {
        (name, getattr(getattr(options, section), option))
        for options in loaded
        for name in enumerated_options()
        for section, option in [name.split(".")]
        if hasattr(getattr(options, section), option)
    }


def public_names(source: str) -> set[str]:
    """Public functions and classes that a module defines; protocols compute nothing."""
    return {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if "Protocol" not in map(ast.unparse, getattr(node, "bases", ()))
    }


def used_names(source: str) -> set[str]:
    """Every name, attribute and string of a test file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.name)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


def options_of(cases):
    """Arguments of parametrised cases, some of which have marks."""
    return [case.values[0] if isinstance(case, type(pytest.param())) else case for case in cases]


def run_everything():
    """Run everything that the comparisons run, once, in the torch twin."""
    made = [make(case) for case in CASES] + [metroplex_cases.make(case) for case in metroplex_cases.CASES]
    for chosen, _, weights, pictures, noise, masks in made:
        twin = Torch(chosen, weights, "float64")
        output = twin.forward(twin.normalise(pictures), noise, {"beta": 1.0, "gamma": 1.0}, masks)["output"]
        for kind in ("sample", "mean"):
            twin.read(output, noise, kind, 1.0)
    for twin, module in ((transformers, transformer_cases), (denoisers, denoiser_cases)):
        for case in module.CASES:
            plan, weights, *arguments = module.make(case)
            twin.Torch(plan, weights, "float64").forward(*arguments)
    classifier.train(classifier.make_engine("torch"), [0])
    run_tokenizers()
    for module in (masked_tokens, sundae):
        for options in options_of(module.TRAINED):
            module.train(module.make_engine("torch", *options), [0])
    for module in (masked_tokens, sundae):
        for options in options_of(module.SAMPLED):
            engine = module.make_engine("torch", *options)
            engine.run("generate", masked_tokens.asked_of(engine), ema=False, step=0)


def run_tokenizers():
    """Run the tokenizers' share of it."""
    for options in tokenizers.OPTIONS.values():
        tokenizer = tokenizers.made("torch", options)
        tokenizer.train(*tokenizers.inputs(tokenizer.plan))
    for options in vqgan.OPTIONS.values():
        vqgan.train(vqgan.make_engine("torch", *options), [0, 1], start=0)


@pytest.fixture(scope="module")
def compared():
    """Names in parity and golden tests, and of the torch twin's functions and classes that their shared
    helpers run, in lower case."""
    names = set()

    def note(frame, event, _argument):
        code = frame.f_code
        if event == "call" and "torch_impl" in code.co_filename:
            names.update(code.co_qualname.lower().split("."))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run_everything()
    finally:
        sys.setprofile(before)
    return names.union(*({name.lower() for name in used_names(path.read_text())} for path in COMPARED))


def test_every_value_of_every_option_is_in_a_case():
    wanted = {
        (name, v) for name, values in enumerated_options().items() if name not in HOST_ONLY for v in values
    }
    assert len(wanted) > 40
    assert not wanted - values_in_cases()


@pytest.mark.parametrize("option", HOST_ONLY)
def test_option_of_the_host_has_a_test_of_its_own(option):
    assert option in enumerated_options()
    others = [path for path in (ROOT / "tests").rglob("*.py") if path.parent.name != "parity"]
    name = re.compile(rf"\b{option.partition('.')[2]}\b")
    assert any(name.search(path.read_text()) for path in others)


MODULES = [
    "dioscuri/schedules.py",
    "torch_impl/optim/optimizers.py",
    "torch_impl/optim/step.py",
    *sorted(
        str(path.relative_to(ROOT))
        for folder in ("models", "objectives", "samplers")
        for path in (ROOT / "torch_impl" / folder).glob("*.py")
    ),
]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_compared(module, compared):
    """Every public name is used in a parity or golden test, or run by their shared helpers.

    The twins have the same names (`tests/host/test_mirror.py`), so one tree is enough. Letter case is
    ignored: update rules are compared under the names that configurations use.
    """
    names = {name.lower() for name in public_names((ROOT / module).read_text())}
    assert names
    assert not names - compared
