"""Which published model a configuration describes, and its weights under canonical names.

Recognised are the folders of open-muse and diffusers (`config.json` next to the weights) and the YAML files
of taming-transformers, latent-diffusion and TiTok. Weights without a configuration (Google's MaskGIT,
Halton-MaskGIT, LlamaGen's tokenizer, SUNDAE, VD-VAE) are described by a `.cfg` of this project.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from dioscuri.checkpoint.compare import check_finite, match
from dioscuri.checkpoint.pretrained import FORMAT, LIBRARY, option_words
from dioscuri.contract import family_of
from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import BIT_GROUPS
from dioscuri.families.maskgit.plan import MASK_FIRST
from dioscuri.families.sundae import plan as denoiser
from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.importers import diffusers, meissonic, metroplex_tokenizers, open_muse, titok_generators
from dioscuri.importers.google import from_google, from_google_tokenizer
from dioscuri.importers.halton import from_halton
from dioscuri.importers.llamagen import from_llamagen
from dioscuri.importers.maskbit import from_maskbit_tokenizer
from dioscuri.importers.maskbit_folders import generator_of, is_maskbit, tokenizer_of
from dioscuri.importers.maskbit_generators import from_maskbit_generator
from dioscuri.importers.metroplex import from_original as from_metroplex
from dioscuri.importers.paella import from_paella, paella_tokenizer
from dioscuri.importers.sundae import by_class_number, from_sundae
from dioscuri.importers.taming import from_taming, refuse_variational, taming_tokenizer
from dioscuri.importers.titok import from_titok, is_titok, titok_tokenizer
from dioscuri.importers.titok_generators import from_titok_generator, is_generator
from dioscuri.importers.vdvae import from_vdvae

Arrays = dict[str, np.ndarray]
Names = Callable[[], Iterable[str]]
Options = tuple[Any, dict[str, Any]]
"""Options of `[model]` and `[data]`."""

TOKENIZERS: dict[str, Callable[[Mapping[str, Any]], Options]] = {
    "MaskGitVQGAN": lambda config: open_muse.open_muse_tokenizer(config, "maskgit"),
    "VQGANModel": lambda config: open_muse.open_muse_tokenizer(config, "taming"),
    "MOVQ": lambda config: open_muse.open_muse_tokenizer(config, "movq"),
    "PaellaVQModel": paella_tokenizer,
    "VQModel": diffusers.diffusers_tokenizer,
}
"""Tokenizers by `_class_name`."""

SAMPLING = {
    "MaskGitTransformer": open_muse.SAMPLING,
    "MaskGiTUViT": open_muse.UVIT_SAMPLING,
    "MaskGiTUViT_v2": open_muse.UVIT_SAMPLING,
    "UVit2DModel": diffusers.SAMPLING,
    "Transformer2DModel": meissonic.SAMPLING,
}
"""Transformers by `_class_name`, with their authors' sampling options (docs/published_weights.md)."""

_METROPLEX = ("metroplex", "dcvae")
"""Architectures of tokenizers of Metroplex's later program."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A family, and words `section.option=value` for everything that the network depends on, even defaults.

    `sampling`: words of the authors' sampler. `native`: written by this project, so that the words cover all
    options and the weights have canonical names. `notes` are lines about settings that were left out.
    `calls` holds options of the model's methods.
    """

    family: str
    overrides: tuple[str, ...]
    sampling: tuple[str, ...] = ()
    native: bool = False
    notes: tuple[str, ...] = ()
    calls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def recognise(
    config: Mapping[str, Any], where: object, overrides: Sequence[str] = (), names: Names = tuple
) -> Published:
    """The model that a configuration describes; a `UserError` that begins with `where` if it is unknown.

    `overrides` are the user's words, which may add what a configuration omits. `names` reads the names of the
    tensors, which decide where a configuration describes two models.
    """
    name = str(config.get("_class_name", ""))
    try:
        if config.get("library") == LIBRARY:
            return _native(config)
        if name in TOKENIZERS:
            return described("vqgan", *TOKENIZERS[name](config))
        if name in SAMPLING:
            return described_transformer(config, overrides)
        if name.startswith("AutoencoderKL"):
            refuse_variational(f"_class_name is {name}")
        if is_titok(config) or is_generator(config):
            return _of_titok(config, names)
        if is_maskbit(config):
            return _maskbit(config)
        stage = _first_stage(config)
        if stage is not None:
            gumbel = str(stage.get("target", "")).endswith("GumbelVQ")
            return described("vqgan", *taming_tokenizer(stage["params"], gumbel=gumbel))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} is not a complete configuration: {type(error).__name__} {error}") from error
    known = ", ".join([*TOKENIZERS, *SAMPLING])
    raise UserError(
        f"{where} describes no known published model: _class_name is not one of {known}, and there is "
        "neither a ddconfig nor a model.vq_model"
    )


def _of_titok(config: Mapping[str, Any], names: Names) -> Published:
    """A tokenizer of TiTok or TA-TiTok, or a generator; TiTok's configurations describe both."""
    tokenizer = is_titok(config) and "maskgen" not in config["model"]
    if is_generator(config) and tokenizer:
        tokenizer = any(name.startswith("encoder.") for name in names())
    if tokenizer:
        return described("vqgan", *titok_tokenizer(config))
    training = option_words(titok_generators.generator_training(config))
    model, _, _ = titok_generators.generator_options(config)
    published = described("maskgit", model, titok_generators.generator_data(config), sampling=training)
    return replace(published, calls=titok_generators.generator_calls(config))


def _maskbit(config: Mapping[str, Any]) -> Published:
    """A tokenizer or a generator of MaskBit."""
    if "mlm_model" not in config["model"]:
        return described("vqgan", *tokenizer_of(config))
    model, data, sampling = generator_of(config)
    return described("maskgit", model, data, sampling=_sampling(sampling))


def described_transformer(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> Published:
    """A transformer of open-muse or diffusers, from its options and `_class_name`."""
    name = config["_class_name"]
    sampling = _sampling(SAMPLING[name])
    if name == "UVit2DModel":
        return described("maskgit", *diffusers.diffusers_uvit(config), sampling=sampling)
    if name == "Transformer2DModel":
        return described("maskgit", *meissonic.meissonic_options(config), sampling=sampling)
    model = open_muse.open_muse_options(config)
    data = open_muse.token_data(
        config, grid_is_given=any(word.startswith("data.grid=") for word in overrides)
    )
    if name == "MaskGitTransformer" and model.add_cross_attention:
        sampling = _sampling({**SAMPLING[name], **open_muse.TEXT_GUIDANCE})
    return described("maskgit", model, data, sampling=sampling, notes=open_muse.ignored(config))


def _sampling(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Words of a sampler's options. Models with guidance were trained without their condition in one case of
    ten."""
    trained = {"loss": {"cond_dropout_prob": 0.1}} if options["guidance_scale"] else {}
    return option_words({"synthesis": options, **trained})


def described(
    family: str,
    model: Any,
    data: Mapping[str, Any],
    *,
    sampling: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Published:
    """The model that options of `[model]` and `[data]` describe."""
    of_model = {declared.name: getattr(model, declared.name) for declared in fields(model)}
    words = option_words({"model": of_model, "data": data})
    return Published(family=family, overrides=words, sampling=sampling, notes=notes)


def canonical_weights(
    arrays: Arrays, hparams: Any, where: object, *, native: bool = False, string_sorted_classes: bool = False
) -> Arrays:
    """Published weights of a run's network under canonical names and layouts, float32.

    `string_sorted_classes`: the weights order classes like the original SUNDAE, by name as text, and are
    reordered by number. A `UserError` names the first tensor that is missing, unknown or of the wrong shape.
    """
    try:
        expected = family_of(hparams).network_shapes(hparams)
        weights = arrays if native else FAMILIES[hparams.run.family](arrays, hparams)
        if string_sorted_classes:
            weights = _with_classes_by_number(weights, hparams, native=native)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: these are not weights of this architecture ({error})") from error
    match(expected, weights, "published", where)
    check_finite(weights, where)
    return {name: np.ascontiguousarray(weights[name], np.float32) for name in expected}


def published_training(arrays: Arrays, hparams: Any) -> tuple[Arrays, Arrays]:
    """Weights of the discriminator, and buffers, that a file holds besides the network; empty without any."""
    if getattr(hparams.model, "architecture", "") not in _METROPLEX:
        return {}, {}
    buffers = metroplex_tokenizers.critic_from_flax(arrays, hparams)
    return buffers, metroplex_tokenizers.buffers_from_flax(arrays, hparams)


def _transformer(arrays: Arrays, hparams: Any) -> Arrays:
    """Weights of a masked token model, whose project is recognised by names and layouts."""
    if any("/" in name for name in arrays):
        return from_google(arrays)
    if hparams.model.architecture == "halton":
        return from_halton(arrays)
    if hparams.model.architecture == "meissonic":
        return meissonic.from_meissonic(arrays)
    if hparams.model.architecture in MASK_FIRST:
        return from_titok_generator(arrays, hparams.model)
    if hparams.model.architecture in BIT_GROUPS:
        return from_maskbit_generator(arrays)
    return diffusers.from_diffusers_uvit(arrays) if _has(arrays, "down_block.") else dict(arrays)


def _tokenizer(arrays: Arrays, hparams: Any) -> Arrays:
    """Weights of a tokenizer, whose project is recognised by names and layouts."""
    plan = tokenizers.plan_of(hparams)
    if hparams.model.architecture == "titok":
        return from_titok(arrays)
    if hparams.model.architecture in _METROPLEX:
        return metroplex_tokenizers.from_flax(arrays, plan)
    if any("/" in name for name in arrays):
        return from_google_tokenizer(arrays, plan)
    if any(".res_blocks." in name for name in arrays):
        return from_maskbit_tokenizer(arrays, plan, legacy=hparams.model.architecture == "maskgit")
    if _has(arrays, "in_block."):
        return from_paella(arrays)
    if _has(arrays, "encoder.conv_blocks."):
        return from_llamagen(arrays)
    diffusion = _has(arrays, "encoder.down_blocks.")
    return diffusers.from_diffusers_tokenizer(arrays) if diffusion else from_taming(arrays)


def _hierarchical(arrays: Arrays, hparams: Any) -> Arrays:
    """Weights of Metroplex's programs or, if the names lack slashes, of VD-VAE."""
    flax = any("/" in name for name in arrays)
    return from_metroplex(arrays, hparams) if flax else from_vdvae(arrays, hparams)


def _denoiser(arrays: Arrays, hparams: Any) -> Arrays:
    return from_sundae(arrays, denoiser.plan_of(hparams))


FAMILIES: dict[str, Callable[[Arrays, Any], Arrays]] = {
    "vqgan": _tokenizer,
    "maskgit": _transformer,
    "metroplex": _hierarchical,
    "sundae": _denoiser,
}
"""Converters of published weights to canonical names and layouts, by family."""


def _with_classes_by_number(weights: Arrays, hparams: Any, *, native: bool) -> Arrays:
    original = FAMILIES.get(hparams.run.family) is _denoiser
    if native or not original or not hparams.model.num_classes:
        raise UserError(
            "--string-sorted-classes is for an original SUNDAE with classes, which these weights are not: "
            "leave it out"
        )
    return by_class_number(weights)


def _has(arrays: Arrays, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in arrays)


def _first_stage(config: Any) -> Mapping[str, Any] | None:
    """The first `target` whose `params` have a `ddconfig`, at any depth of a YAML file."""
    if not isinstance(config, Mapping):
        return None
    params = config.get("params")
    if isinstance(params, Mapping) and isinstance(params.get("ddconfig"), Mapping):
        return config
    stages = (_first_stage(value) for value in config.values())
    return next((stage for stage in stages if stage is not None), None)


def _native(config: Mapping[str, Any]) -> Published:
    if config["format"] != FORMAT:
        raise UserError(f"it has format {config['format']!r}, but this version reads {FORMAT}")
    sections = config["hparams"]
    return Published(family=sections["run"]["family"], overrides=option_words(sections), native=True)
