"""Command line of `download_and_preprocess.sh`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from data_scripts.cifar10 import prepare_cifar10
from data_scripts.faces import prepare_celeba, prepare_celebahq, prepare_ffhq
from data_scripts.imagenet import prepare_imagenet32, prepare_imagenet64
from data_scripts.mnist import prepare_mnist, prepare_mnist10k
from data_scripts.request import Request
from dioscuri.errors import UserError, did_you_mean, run_command

DATA_SETS: dict[str, Callable[[Request], None]] = {
    "mnist": prepare_mnist,
    "mnist10k": prepare_mnist10k,
    "cifar10": prepare_cifar10,
    "imagenet32": prepare_imagenet32,
    "imagenet64": prepare_imagenet64,
    "celeba": prepare_celeba,
    "celebahq": prepare_celebahq,
    "ffhq": prepare_ffhq,
}
_ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> None:
    """Prepare one data set; raises `UserError`."""
    options = _parser().parse_args(arguments)
    if options.dataset not in DATA_SETS:
        hint = did_you_mean(options.dataset, DATA_SETS)
        raise UserError(f"data set '{options.dataset}' is unknown{hint}; known: {', '.join(DATA_SETS)}")
    request = Request(
        output=options.output.resolve(),
        downloads=(options.downloads or options.output / "downloads").resolve(),
        base_url=options.base_url,
        checksums=_checksums(options.sha256),
        unverified=options.unverified,
        archive=options.archive,
        validation=options.validation,
    )
    try:
        DATA_SETS[options.dataset](request)
    except OSError as error:
        raise UserError(f"{error.filename or request.output}: {error.strerror or error}") from error


def _checksums(pairs: Sequence[str]) -> dict[str, str]:
    """Map file names ('' if none is given) to sha256."""
    parts = [pair.rpartition("=") for pair in pairs]
    return {name: digits.lower() for name, _, digits in parts}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="download_and_preprocess.sh",
        description="Download, check and unpack a data set to where the configurations look for it.",
    )
    parser.add_argument("dataset", help="one of " + ", ".join(DATA_SETS))
    parser.add_argument("--output", type=Path, default=_ROOT / "datasets", help="default: %(default)s")
    parser.add_argument(
        "--downloads", type=Path, help="where archives lie or are downloaded to; default: OUTPUT/downloads"
    )
    parser.add_argument("--base-url", default="", help="folder of a copy to download the files from")
    parser.add_argument(
        "--sha256",
        action="append",
        default=[],
        metavar="[NAME=]HEX",
        help="expected checksum of a file; repeatable",
    )
    parser.add_argument("--unverified", action="store_true", help="accept a file whose checksum is unknown")
    parser.add_argument("--archive", default="", metavar="NAME", help="celebahq, ffhq: name of the archive")
    parser.add_argument("--validation", type=int, metavar="N", help="celebahq, ffhq: pictures for validation")
    return parser


if __name__ == "__main__":
    run_command(main)
