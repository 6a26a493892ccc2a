"""`dioscuri evaluate`: compare two sets of pictures, or of their features."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.cli import foreign
from dioscuri.cli.parsers import Parser, add_twin, output_file
from dioscuri.errors import UserError
from dioscuri.evaluation.extractors import (
    NETWORKS,
    PIXELS,
    Extractor,
    Features,
    MakeEngine,
    MakeNetwork,
    classifier,
    network,
    pixels,
)
from dioscuri.evaluation.judged import class_agreement, read_labels
from dioscuri.evaluation.measures import INCEPTION, INCEPTION_WIDTH, Measure, measures
from dioscuri.evaluation.pictures import (
    Pictures,
    Statistics,
    open_examples,
    read_npy,
    read_statistics,
)
from dioscuri.files import read_json, write_json
from dioscuri.outputs.settings import is_whole, printable, settings_in
from dioscuri.twins import default_twin, installed, open_twin, twin_module
from dioscuri.versions import versions

Array = np.ndarray

_USAGE = f"SAMPLES REFERENCE [--extractor RUN|NAME] [--k K] [--seed SEED] [--json FILE] ...\n{foreign.USAGE}"
_DESCRIPTION = """\
SAMPLES and REFERENCE are folders of pictures; .npy files of pictures, uint8 (N, H, W, C), of clips, uint8
(N, T, H, W, C), or of features, floating-point (N, D); or .npz files with pictures 'arr_0', or with
statistics of features, 'mu' and 'sigma'. Pictures are compared by their pixels, with --extractor
FOLDER/logs-NAME by the features of a classifier trained with this project, or with --extractor
inception|dinov2|clip by those of a published network, whose weights are downloaded once and verified unless
--weights names them. For feature files, --extractor names the network that made them: with 'inception' the
distance is called FID, with any other NAME FD-NAME.
The second form measures how well a VAE tells foreign pictures from known ones; see
dioscuri evaluate --ood --help."""
_EXAMPLE = "dioscuri evaluate torch_impl/logs-mine/synthesis-images/generated /pictures/test"


MAX_SIDE = 8192


def main(words: Sequence[str]) -> None:
    """Run a command line with the twin that it names, or else the installed one."""
    if any(word.partition("=")[0] == foreign.OPTION for word in words):
        foreign.main(words)
    else:
        evaluate(words, make_engine, make_network)


def make_engine(twin: str, hparams: Any) -> Any:
    """The engine of a twin, or of the other if its framework is not installed."""
    return open_twin(twin if twin in installed() else default_twin()).make_inference_engine(hparams)


def make_network(twin: str, name: str, weights: str) -> Any:
    """A published network as a function of pictures, and its description."""
    return twin_module(twin, "extractors").open_network(name, weights)


def evaluate(words: Sequence[str], make_engine: MakeEngine, make_network: MakeNetwork | None = None) -> None:
    """Run a command line."""
    parser = make_parser()
    chosen = parser.parse_args(list(words))
    foreign.refuse_options(chosen, parser)
    chosen.twin = chosen.twin or default_twin()
    if chosen.k < 1 or chosen.seed < 0:
        raise UserError("--k must be 1 or more, and --seed 0 or more")
    if not 0 <= chosen.resize <= MAX_SIDE:
        raise UserError(f"--resize must be from 1 to {MAX_SIDE} pixels")
    samples, reference, name, description = _features(chosen, make_engine, make_network)
    _check(samples, reference, chosen)
    results = measures(samples, reference, name, k=chosen.k, seed=chosen.seed)
    results += _agreement(samples, reference, chosen)
    settings = _settings(chosen.samples)
    sizes = {"samples": len(samples) or None, "reference": len(reference) or None}
    _tell(results, sizes, description, settings, chosen)
    if not is_whole(chosen.samples):
        print(f"note: generation of {chosen.samples} was interrupted; repeat the same command to continue")
    if any(size is not None and size <= samples.width for size in sizes.values()):
        print(
            f"note: no more examples than the {samples.width} features, so the Frechet distance is biased "
            "upwards"
        )
    if chosen.json is not None:
        table = {m.name: {"value": m.value, "deviation": m.deviation, "remark": m.remark} for m in results}
        given = {name: None if value is None else str(value) for name, value in vars(chosen).items()}
        call = {"settings": given | {"versions": versions()}, "sampling": settings}
        write_json(
            chosen.json,
            {**sizes, "extractor": description, "seed": chosen.seed, **call, "metrics": table},
        )


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("evaluate", _USAGE, _DESCRIPTION, _EXAMPLE)
    parser.add_argument("samples", type=Path, metavar="SAMPLES")
    parser.add_argument("reference", type=Path, metavar="REFERENCE")
    parser.add_argument(
        "--extractor",
        metavar="RUN|NAME",
        help=f"a classifier's run, or {', '.join(NETWORKS)}; for feature files, the name of their network",
    )
    parser.add_argument(
        "--weights", default="", metavar="WHERE", help="file, folder or hub id of the network"
    )
    add_twin(parser)
    parser.add_argument(
        "--logits", type=Path, metavar="FILE", help="for feature files: logits (N, K) of SAMPLES"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="intended classes of SAMPLES, .npy or labels.json"
    )
    parser.add_argument("--reference-labels", type=Path, metavar="FILE", help="classes of REFERENCE, .npy")
    parser.add_argument(
        "--resize", type=int, default=0, metavar="SIDE", help="resize pictures to squares first, bilinearly"
    )
    parser.add_argument("--k", type=int, default=3, help="nearest neighbours")
    parser.add_argument("--seed", type=int, default=0, help="seed of subsets and splits")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="also write the results to FILE")
    foreign.add_options(parser)
    return parser


def _features(
    chosen: Any, make_engine: MakeEngine, make_network: MakeNetwork | None
) -> tuple[Features, Features, str, str]:
    """Features of both sets, and the extractor's name and description."""
    first, second = (open_examples(path, chosen.resize) for path in (chosen.samples, chosen.reference))
    pictures = [examples for examples in (first, second) if isinstance(examples, Pictures)]
    clips = next((examples for examples in pictures if examples.clip), None)
    if clips is not None and (chosen.resize or chosen.extractor not in (None, PIXELS)):
        raise UserError(
            f"{clips.path}: clips can only be compared by their pixels: leave --extractor and --resize out"
        )
    if pictures and any(isinstance(examples, np.ndarray) for examples in (first, second)):
        raise UserError(
            f"{chosen.samples} and {chosen.reference}: one holds features, the other pictures; give two of "
            "the same kind"
        )
    _check_clips(pictures)
    if not isinstance(first, Pictures) and not isinstance(second, Pictures):
        return _of_files(first, second, chosen)
    if chosen.logits is not None:
        raise UserError(
            "--logits is for feature files: for pictures, the classifier computes them; leave it out"
        )
    if chosen.weights and chosen.extractor not in NETWORKS:
        raise UserError(f"--weights is only for --extractor {', '.join(NETWORKS)}: leave it out")
    if chosen.extractor in NETWORKS and make_network is not None:
        extractor = network(chosen.extractor, chosen.weights, chosen.twin, make_network)
    else:
        extractor = _extractor(chosen.extractor, pictures[0], pictures[-1], make_engine)
    if extractor.name == PIXELS and len(pictures) == 1:
        raise UserError(
            "statistics need the network of their features: add --extractor, such as --extractor inception"
        )
    one, other = (
        extractor.of(examples) if isinstance(examples, Pictures) else _of_file(examples)
        for examples in (first, second)
    )
    if extractor.name == INCEPTION and isinstance(second, Pictures):
        # The reference files of guided-diffusion hold pictures and statistics of the set they are from.
        other = replace(other, gaussian=read_statistics(chosen.reference))
    return one, other, extractor.name, extractor.description


def _check_clips(pictures: list[Pictures]) -> None:
    """Raise a `UserError` if clips are to be compared with pictures, or with clips of another shape."""
    for one, other in pairwise(pictures):
        if one.clip != other.clip:
            kinds = (f"clips (T, H, W) = {each.clip}" if each.clip else "pictures" for each in (one, other))
            what = "{} and {}: one holds {}, the other {}; give two of the same kind and shape"
            raise UserError(what.format(one.path, other.path, *kinds))


def _of_files(
    first: Array | Statistics, second: Array | Statistics, chosen: Any
) -> tuple[Features, Features, str, str]:
    """Features or their statistics from files."""
    name = chosen.extractor or "features"
    if not name.isidentifier():
        raise UserError(f"--extractor '{name}' must be a name such as inception for feature files")
    for option, given in (("--resize", chosen.resize), ("--weights", chosen.weights)):
        if given:
            raise UserError(f"{option} is for pictures: leave it out")
    logits = None
    if chosen.logits is not None:
        if not isinstance(first, np.ndarray):
            raise UserError(
                "--logits needs features of SAMPLES, but the file has only statistics: leave it out"
            )
        logits = _logits(chosen.logits, len(first))
    return replace(_of_file(first), logits=logits), _of_file(second), name, f"{name}, features of files"


def _of_file(examples: Array | Statistics) -> Features:
    if isinstance(examples, Statistics):
        return Features(None, gaussian=examples.moments)
    return Features(examples)


def _extractor(name: str | None, first: Pictures, second: Pictures, make_engine: MakeEngine) -> Extractor:
    if name in (None, PIXELS):
        return pixels(first, second)
    assert name is not None
    return classifier(Path(name), make_engine)


def _logits(path: Path, n: int) -> Array:
    logits = read_npy(path)
    if logits.ndim != 2 or logits.dtype.kind != "f" or len(logits) != n or not np.isfinite(logits).all():
        raise UserError(f"{path}: holds {logits.dtype} {logits.shape}, not {n} rows of finite logits")
    return logits


def _check(samples: Features, reference: Features, chosen: Any) -> None:
    if samples.width != reference.width or not samples.width:
        raise UserError(
            f"{chosen.samples} and {chosen.reference}: feature widths {samples.width} and {reference.width} "
            "differ: use the same extractor for both"
        )
    if chosen.extractor == INCEPTION and samples.width != INCEPTION_WIDTH:
        raise UserError(
            f"{chosen.samples}: features of width {samples.width} are not Inception's ({INCEPTION_WIDTH}); "
            "name their network with --extractor NAME"
        )
    least = max(2, chosen.k + 1)
    for path, examples in ((chosen.samples, samples), (chosen.reference, reference)):
        if examples.features is not None and len(examples) < least:
            raise UserError(f"{path}: give at least {least} examples, not {len(examples)}")


def _agreement(samples: Features, reference: Features, chosen: Any) -> list[Measure]:
    """Class agreement, if the classes of both sets are known."""
    if chosen.labels is None and chosen.reference_labels is None:
        return []
    if chosen.labels is None or chosen.reference_labels is None:
        raise UserError("--labels and --reference-labels belong together: give both or neither")
    if samples.features is None or reference.features is None:
        raise UserError(
            "--labels and --reference-labels need examples, but a file has only statistics: leave them out"
        )
    intended = read_labels(chosen.labels, len(samples), chosen.samples)
    labels = read_labels(chosen.reference_labels, len(reference), chosen.reference)
    share = class_agreement(samples.features, intended, reference.features, labels, k=chosen.k)
    return [Measure("class agreement", share, remark=f"vote of the {chosen.k} nearest of REFERENCE")]


def _settings(samples: Path) -> dict[str, Any]:
    """The settings of the samples, if synthesis wrote them to the same folder."""
    folder = samples if samples.is_dir() else samples.parent
    before = folder / "sampling.json"  # written by version 0.1.0
    settings: dict[str, Any] = settings_in(folder)
    return settings or (read_json(before, "record of the sampling") if before.is_file() else {})


def _tell(
    results: list[Measure],
    sizes: dict[str, int | None],
    description: str,
    settings: dict[str, Any],
    chosen: Any,
) -> None:
    print(f"samples:   {sizes['samples'] or 'statistics'} of {chosen.samples}")
    if settings:
        print("sampling:  " + ", ".join(f"{name}={value}" for name, value in printable(settings).items()))
    print(f"reference: {sizes['reference'] or 'statistics'} of {chosen.reference}")
    print(f"extractor: {description}")
    print(f"seed:      {chosen.seed}")
    width = max(len(measure.name) for measure in results)
    for measure in results:
        deviation = "" if measure.deviation is None else f" +- {measure.deviation:.4g}"
        remark = f"  ({measure.remark})" if measure.remark else ""
        print(f"{measure.name:{width}}  {measure.value:.6g}{deviation}{remark}")
