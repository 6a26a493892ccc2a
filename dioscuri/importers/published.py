"""Which published model a configuration describes, and its weights under canonical names.

Known are the folders of open-muse and diffusers (`config.json` beside the weights) and the YAML files of
taming-transformers and latent-diffusion; files that come without one (Google's MaskGIT, Halton-MaskGIT,
LlamaGen's tokenizer, SUNDAE) are described by a `.cfg` of this project.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import isqrt
from typing import Any

import numpy as np

from dioscuri.checkpoint.compare import check_finite, match
from dioscuri.checkpoint.pretrained import FORMAT, LIBRARY, option_words
from dioscuri.contract import family_of
from dioscuri.errors import UserError
from dioscuri.families.sundae import plan as denoiser
from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.importers import metroplex_tokenizers
from dioscuri.importers.diffusers import (
    diffusers_tokenizer,
    diffusers_uvit,
    from_diffusers_tokenizer,
    from_diffusers_uvit,
)
from dioscuri.importers.metroplex import from_original as from_metroplex
from dioscuri.importers.paella import from_paella, paella_tokenizer
from dioscuri.importers.sundae import by_class_number, from_sundae
from dioscuri.importers.tokenizer_names import from_flax
from dioscuri.importers.tokenizers import (
    from_llamagen,
    from_taming,
    open_muse_tokenizer,
    refuse_variational,
    taming_tokenizer,
)
from dioscuri.importers.transformers import from_google, from_halton, open_muse_options

Arrays = dict[str, np.ndarray]

TOKENIZERS = {"MaskGitVQGAN": "maskgit", "VQGANModel": "taming", "MOVQ": "movq"}
TRANSFORMERS = ("MaskGitTransformer", "MaskGiTUViT", "MaskGiTUViT_v2")
OTHERS = {
    "PaellaVQModel": lambda config: ("vqgan", *paella_tokenizer(config)),
    "VQModel": lambda config: ("vqgan", *diffusers_tokenizer(config)),
    "UVit2DModel": lambda config: ("maskgit", *diffusers_uvit(config)),
}


_METROPLEX = ("metroplex", "dcvae")
"""Architectures of tokenizers of Metroplex's later program."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Family, and words `section.option=value` that say what the network depends on, defaults included.

    `own`: written by this project; the words then say all options, and the weights have canonical names.
    `notes` are lines that say what of the configuration was changed or left out.
    """

    family: str
    overrides: tuple[str, ...]
    own: bool = False
    notes: tuple[str, ...] = ()


def recognise(config: Mapping[str, Any], where: object) -> Published:
    """What a configuration describes; a `UserError` begins with `where` if it is none that is known."""
    name = str(config.get("_class_name", ""))
    try:
        if config.get("library") == LIBRARY:
            return _own(config)
        if name in TOKENIZERS:
            model, data = open_muse_tokenizer(config, TOKENIZERS[name])
            return _described("vqgan", model, data)
        if name in TRANSFORMERS:
            return described_transformer(config)
        if name in OTHERS:
            return _described(*OTHERS[name](config))
        if name.startswith("AutoencoderKL"):
            refuse_variational(f"_class_name is {name}")
        stage = _first_stage(config)
        if stage is not None:
            gumbel = str(stage.get("target", "")).endswith("GumbelVQ")
            model, data = taming_tokenizer(stage["params"], gumbel=gumbel)
            return _described("vqgan", model, data)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} is no whole configuration: {type(error).__name__} {error}") from error
    known = ", ".join([*TOKENIZERS, *TRANSFORMERS, *OTHERS])
    raise UserError(
        f"{where} describes no published model that is known here: _class_name is none of {known}, and there "
        "is no ddconfig"
    )


def canonical_weights(
    arrays: Arrays, hparams: Any, where: object, *, own: bool = False, string_sorted_classes: bool = False
) -> Arrays:
    """Published weights of the network of a run's options, under canonical names and layouts, float32.

    `string_sorted_classes`: they count classes as the original SUNDAE does, and are put in the order of
    numbers. A `UserError` names the first tensor that is missing, unknown or of another shape.
    """
    try:
        expected = family_of(hparams).network_shapes(hparams)
        found = arrays if own else FAMILIES[hparams.run.family](arrays, hparams)
        if string_sorted_classes:
            found = _with_classes_by_number(found, hparams, own=own)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: these are no weights of this architecture ({error})") from error
    match(expected, found, "published", where)
    check_finite(found, where)
    return {name: np.ascontiguousarray(found[name], np.float32) for name in expected}


def published_training(arrays: Arrays, hparams: Any) -> tuple[Arrays, Arrays]:
    """Weights of the discriminator and buffers that a file holds beside the network; empty where there are
    none."""
    if getattr(hparams.model, "architecture", "") not in _METROPLEX:
        return {}, {}
    found = metroplex_tokenizers.critic_from_flax(arrays, hparams)
    return found, metroplex_tokenizers.buffers_from_flax(arrays, hparams)


def _transformer(arrays: Arrays, hparams: Any) -> Arrays:
    """Of a masked token model: names and layouts tell which project's it is."""
    if any("/" in name for name in arrays):
        return from_google(arrays)
    if hparams.model.architecture == "halton":
        return from_halton(arrays)
    return from_diffusers_uvit(arrays) if _has(arrays, "down_block.") else dict(arrays)


def _tokenizer(arrays: Arrays, hparams: Any) -> Arrays:
    """Of a tokenizer: names and layouts tell which project's it is."""
    if hparams.model.architecture in _METROPLEX:
        return metroplex_tokenizers.from_flax(arrays, _tokenizer_plan(hparams))
    if any("/" in name for name in arrays):
        return from_flax(arrays, _tokenizer_plan(hparams))
    if _has(arrays, "in_block."):
        return from_paella(arrays)
    if _has(arrays, "encoder.conv_blocks."):
        return from_llamagen(arrays)
    return from_diffusers_tokenizer(arrays) if _has(arrays, "encoder.down_blocks.") else from_taming(arrays)


def _denoiser(arrays: Arrays, hparams: Any) -> Arrays:
    return from_sundae(arrays, denoiser.plan_of(hparams))


FAMILIES: dict[str, Callable[[Arrays, Any], Arrays]] = {
    "vqgan": _tokenizer,
    "maskgit": _transformer,
    "metroplex": from_metroplex,
    "sundae": _denoiser,
}
"""Families with published weights, and what gives these canonical names and layouts."""


def _with_classes_by_number(found: Arrays, hparams: Any, *, own: bool) -> Arrays:
    original = FAMILIES.get(hparams.run.family) is _denoiser
    if own or not original or not hparams.model.num_classes:
        raise UserError(
            "classes sorted as text are those of an original SUNDAE with classes, and these weights are not: "
            "leave out --string-sorted-classes"
        )
    return by_class_number(found)


def _has(arrays: Arrays, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in arrays)


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
    """The first `target` with `params` that have a `ddconfig`, at any depth of a YAML file."""
    if not isinstance(config, Mapping):
        return None
    params = config.get("params")
    if isinstance(params, Mapping) and isinstance(params.get("ddconfig"), Mapping):
        return config
    found = (_first_stage(value) for value in config.values())
    return next((stage for stage in found if stage is not None), None)


def _tokenizer_plan(hparams: Any) -> tokenizers.TokenizerPlan:
    return tokenizers.make_plan(hparams.model, hparams.data.target_res, hparams.data.channels)


def described_transformer(config: Mapping[str, Any]) -> Published:
    """A transformer of open-muse, from its options and `_class_name`."""
    return _described("maskgit", open_muse_options(config), _token_data(config))


def _described(family: str, model: Any, data: Mapping[str, Any]) -> Published:
    of_model = {declared.name: getattr(model, declared.name) for declared in fields(model)}
    return Published(family=family, overrides=option_words({"model": of_model, "data": data}))


def _own(config: Mapping[str, Any]) -> Published:
    if config["format"] != FORMAT:
        raise UserError(f"it is of format {config['format']!r}, this program reads {FORMAT}")
    sections = config["hparams"]
    return Published(family=sections["run"]["family"], overrides=option_words(sections), own=True)
