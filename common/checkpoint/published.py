"""Which published model a configuration describes, and its weights under canonical names.

Known are the folders of open-muse (`config.json` beside the weights) and the YAML files of
taming-transformers and latent-diffusion; files that come without one (Google's MaskGIT, Halton-MaskGIT) are
described by a `.cfg` of this project.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isqrt
from typing import Any

import numpy as np

from common.checkpoint.compare import match
from common.checkpoint.tokenizer_import import from_taming, open_muse_tokenizer, taming_tokenizer
from common.checkpoint.tokenizer_names import from_flax
from common.checkpoint.transformer_import import from_google, from_halton, open_muse_options
from common.errors import UserError
from common.plans import tokenizers, transformers
from common.plans.parameters import shapes

Arrays = dict[str, np.ndarray]

TOKENIZERS = {"MaskGitVQGAN": False, "VQGANModel": True}
TRANSFORMERS = ("MaskGitTransformer", "MaskGiTUViT", "MaskGiTUViT_v2")
FAMILIES = ("vqgan", "maskgit")


@dataclass(frozen=True, kw_only=True)
class Published:
    """Family, options of `[model]`, and those options of `[data]` that the network depends on."""

    family: str
    model: Any
    data: Mapping[str, Any]

    @property
    def overrides(self) -> list[str]:
        """The options as words `section.option=value`, all of `[model]`, defaults included."""
        words = [f"model.{name.name}={_text(getattr(self.model, name.name))}" for name in fields(self.model)]
        return [*words, *(f"data.{name}={_text(value)}" for name, value in self.data.items())]


def recognise(config: Mapping[str, Any], where: object) -> Published:
    """What a configuration describes; a `UserError` begins with `where` if it is none that is known."""
    name = str(config.get("_class_name", ""))
    try:
        if name in TOKENIZERS:
            model, data = open_muse_tokenizer(config, taming=TOKENIZERS[name])
            return Published(family="vqgan", model=model, data=data)
        if name in TRANSFORMERS:
            return Published(family="maskgit", model=open_muse_options(config), data=_token_data(config))
        params = _first_stage(config)
        if params is not None:
            model, data = taming_tokenizer(params)
            return Published(family="vqgan", model=model, data=data)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where} is no whole configuration: {type(error).__name__} {error}") from error
    known = ", ".join([*TOKENIZERS, *TRANSFORMERS])
    raise UserError(
        f"{where} describes no published model that is known here: _class_name is none of {known}, and there "
        "is no ddconfig"
    )


def canonical_weights(arrays: Arrays, hparams: Any, where: object) -> Arrays:
    """Published weights of the network of a run's options, under canonical names and layouts, float32.

    A `UserError` names the first tensor that is missing, unknown or of another shape.
    """
    data, model = hparams.data, hparams.model
    flax = any("/" in name for name in arrays)
    try:
        if hparams.run.family == "vqgan":
            plan = tokenizers.make_plan(model, data.target_res, data.channels)
            expected = shapes(tokenizers.parameter_table(plan))
            found = from_flax(arrays, plan) if flax else from_taming(arrays)
        else:
            prior = transformers.make_plan(model, data.grid, data.codebook_size)
            expected = shapes(transformers.parameter_table(prior))
            found = _transformer(arrays, model.architecture, flax=flax)
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: these are no weights of this architecture ({error})") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    match(expected, found, "published", where)
    return {name: np.ascontiguousarray(found[name], np.float32) for name in expected}


def _transformer(arrays: Arrays, architecture: str, *, flax: bool) -> Arrays:
    if flax:
        return from_google(arrays)
    return from_halton(arrays) if architecture == "halton" else dict(arrays)


def _token_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """Grid, codes and size of pictures; 16 pixels a token, as all published tokenizers but one have."""
    uvit = config["_class_name"] != "MaskGitTransformer"
    n = config.get("num_vq_tokens", 256)
    if isqrt(n) ** 2 != n:
        raise UserError(f"num_vq_tokens {n} is no square: data.grid=32 data.target_res=512 for 512 pixels")
    codes = config.get("codebook_size", 8192 if uvit else 1024)
    labels = bool(config.get("num_classes"))
    data = {"grid": isqrt(n), "codebook_size": codes, "target_res": 16 * isqrt(n), "channels": 3}
    return {**data, "labels": labels}


def _first_stage(config: Any) -> Mapping[str, Any] | None:
    """Parameters of the first model with a `ddconfig`, at any depth of a YAML file."""
    if not isinstance(config, Mapping):
        return None
    if isinstance(config.get("ddconfig"), Mapping):
        return config
    found = (_first_stage(value) for value in config.values())
    return next((params for params in found if params is not None), None)


def _text(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
