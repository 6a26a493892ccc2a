"""Cases that together cover every value of every enumerated or boolean option that reaches tensor code.

They are computed from the dataclasses, so a new option or value is covered as soon as it is declared. Options
that do not reach tensor code are listed with the reason.
"""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints
from zlib import crc32

import numpy as np

from dioscuri import hparams
from dioscuri.families.hierarchical_vae.options import HParams

ROOT = Path(__file__).parents[2]
BASE = ROOT / "tests" / "golden" / "cases" / "hierarchical_vae" / "torch_mol8" / "hparams.cfg"
SMALL = (
    "run.num_gpus=0",
    "data.target_res=8",
    "data.num_bits=5",
    "model.input_conv_filters=8",
    "model.up_strides=[2, 1]",
    "model.up_n_blocks_per_res=[0, 1]",
    "model.up_n_blocks=[1, 1]",
    "model.up_n_layers=[1, 1]",
    "model.up_filters=[8, 8]",
    "model.up_mid_filters_ratio=[0.5, 0.5]",
    "model.up_kernel_size=[3, 3]",
    "model.up_skip_filters=[8, 8]",
    "model.down_strides=[1, 2]",
    "model.down_n_blocks_per_res=[1, 1]",
    "model.down_n_blocks=[1, 1]",
    "model.down_n_layers=[1, 1]",
    "model.down_filters=[8, 8]",
    "model.down_mid_filters_ratio=[0.5, 0.5]",
    "model.down_kernel_size=[3, 3]",
    "model.down_latent_variates=[2, 2]",
    "model.output_gradient_smoothing_beta=0.9",
    "loss.min_mol_logscale=-7.",
    "optimizer.max_skips_in_row=50",
)

# Outside the parity tests of tensor code; other tests name these options.
HOST_ONLY = {
    "run.wandb": "where scalars are logged",
    "data.random_horizontal_flip": "the one data pipeline serves both twins",
    "data.legacy_crop": "the one data pipeline serves both twins",
    "data.fast_jpeg": "the one data pipeline serves both twins",
    "data.skip_corrupt": "the one data pipeline serves both twins",
    "data.random_crop": "the one data pipeline serves both twins",
    "data.require_marked_as_ok_by_spawning": "the one data pipeline serves both twins",
    "data.require_marked_as_not_getty": "the one data pipeline serves both twins",
    "metrics.report_baselines": "what is printed after training",
    "optimizer.learning_rate_scheme": "which number the host gives the engine",
    "train.time_limit_clock": "when the host ends a run",
    "train.stabilizer": "when the host gives an engine an older state",
    "train.resume_from_ema": "which file of a checkpoint is read",
    "synthesis.synthesis_mode": "which methods of the engine are called",
    "synthesis.save_target_in_reconstruction": "which pictures are written",
    "synthesis.split": "which pictures are read",
    "synthesis.interpolation": "which latents the host gives an engine",
    "synthesis.rest": "which masks the host gives an engine",
}

# Compilation takes minutes, so there is a single case for it, with two latent groups, which only trains.
COMPILED = "train.compile"

N_CASES = 6


def enumerated_options() -> dict[str, tuple[Any, ...]]:
    """`section.option` -> its values, for every option that is boolean or declares choices."""
    return {
        f"{section}.{name}": values
        for section, kind in get_type_hints(HParams).items()
        for name, values in enumerated(kind).items()
    }


def enumerated(kind: Any) -> dict[str, tuple[Any, ...]]:
    """Option -> its values, for every option of a section that is boolean or declares choices."""
    return {
        field.name: tuple(field.metadata["choices"] or (False, True))
        for field in fields(kind)
        if field.metadata["choices"] or field.type is bool
    }


def option_cases() -> Iterator[dict[str, Any]]:
    """One dict of option values per case."""
    varied = {
        name: v for name, v in enumerated_options().items() if name not in HOST_ONLY and name != COMPILED
    }
    columns = {name: _column(name, values) for name, values in varied.items()}
    for i in range(N_CASES):
        yield {COMPILED: False, **{name: column[i] for name, column in columns.items()}}
    yield {COMPILED: True, "model.up_n_blocks_per_res": [0, 0], "model.down_n_blocks_per_res": [0, 0]}


def _column(name: str, values: tuple[Any, ...]) -> list[Any]:
    """The values of an option over the cases, each about equally often, in an
    order specific to the option."""
    order = np.random.default_rng(crc32(name.encode())).permutation(N_CASES)
    return [values[i % len(values)] for i in order]


def load_case(case: dict[str, Any]) -> HParams:
    """The options of a case on a model of four latent groups."""
    options: HParams = hparams.load(BASE, [*SMALL, *(f"{name}={value!r}" for name, value in case.items())])
    return options
