"""Networks of SUNDAE of both twins as functions of numpy arrays, for comparisons."""

from typing import Any

from dioscuri.families.sundae.plan import parameter_table
from jax_impl.models.denoiser import build_denoiser as build_jax
from tests.support import transformers
from torch_impl.models.denoiser import build_denoiser as build_torch


class Torch(transformers.Torch):
    """The PyTorch twin."""

    table: Any = staticmethod(parameter_table)
    build: Any = staticmethod(build_torch)


class Jax(transformers.Jax):
    """The JAX twin."""

    table: Any = staticmethod(parameter_table)
    build: Any = staticmethod(build_jax)


TWINS = {"torch": Torch, "jax": Jax}
