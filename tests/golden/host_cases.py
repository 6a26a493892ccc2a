"""Recorded cases that need no tensor code: how options are read, and the schedules."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri import schedules
from dioscuri.contract import check_options
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.hparams import load
from dioscuri.hparams.reader import parse, settings
from tests.golden.recorded import Case, Kind

ANY_CFG = Path(__file__).parent / "cases" / "hierarchical_vae" / "torch_mol8" / "hparams.cfg"


def check_hparams(case: Path, scratch: Path) -> None:
    """Every recorded file yields the recorded typed values, passes schema and checks, and has a plan."""
    raw, parsed = (json.loads((case / name).read_text()) for name in ("raw.json", "parsed.json"))
    assert raw.keys() == parsed.keys()
    for name, sections in raw.items():
        text = cfg_text(sections)
        assert typed_values(text) == parsed[name], name
        path = scratch / name.replace("/", "-")
        path.write_text(text)
        options = load(path)
        assert options.run.name == sections["run"]["name"]
        check_options(options)
        assert make_plan(options).n_levels == len(options.model.down_strides)


def cfg_text(sections: dict[str, dict[str, str]]) -> str:
    """Text of a `.cfg` file."""
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())
        for section, options in sections.items()
    )


def typed_values(text: str) -> dict[str, dict[str, Any]]:
    """Section -> option -> [type, value], as in the recorded files."""
    return {
        section: {option: recorded(setting.value()) for option, setting in options.items()}
        for section, options in settings(parse(text, "recorded"), Path()).items()
    }


def recorded(value: Any) -> list[Any]:
    """[type, value]; a tuple's value is {"tuple": [...]}."""
    return [type(value).__name__, _plain(value)]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return {"tuple": [_plain(item) for item in value]}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def check_schedules(folder: Path, scratch: Path) -> None:
    """Learning rates of both programs, the torch cosine with its `legacy` option, and both betas."""
    del scratch
    case, base = Case(folder), load(ANY_CFG)
    rate, warmup, start, steps, least = map(
        float,
        case.said(r"base (\S+), warmup (\S+), decay_start (\S+), decay_steps (\S+), min ([\d.e-]+)"),
    )
    optimizer = replace(base.optimizer, learning_rate=rate, min_learning_rate=least, warmup_steps=warmup,
                        decay_start=int(start), decay_steps=int(steps))  # fmt: skip
    anneal_start, anneal_steps, beta_min = map(float, case.said(r"beta_linear\((.+?),(.+?),(.+?)\)"))
    activation, growth = map(float, case.said(r"beta_logistic\((.+?),(.+?)\)"))
    loss = replace(base.loss, vae_beta_anneal_start=anneal_start, vae_beta_anneal_steps=anneal_steps,
                   vae_beta_min=beta_min, vae_beta_activation_steps=activation,
                   vae_beta_growth_rate=growth)  # fmt: skip
    every = int(case.number(r"at steps 0,(\d+),"))
    for program in ("torch", "jax"):
        with np.load(folder / f"{program}.npz") as tables:
            for name, expected in tables.items():
                if name.startswith("beta_"):
                    options = replace(loss, variation_schedule=name.removeprefix("beta_").capitalize())
                    got = [schedules.beta(every * i, options) for i in range(len(expected))]
                else:
                    options = replace(
                        optimizer, learning_rate_scheme=name, legacy_torch_cosine=program == "torch"
                    )
                    got = [schedules.learning_rate(step, options) for step in range(len(expected))]
                case.close(got, f"{program} {name}", expected)


KINDS: dict[Kind, Callable[[Path, Path], None]] = {
    ("hierarchical_vae", "hparams"): check_hparams,
    ("hierarchical_vae", "schedules"): check_schedules,
}
"""Kind of a case -> check, called with the case's folder and an empty one."""
