"""CIFAR-10, the binary version: no pickle is involved."""

from pathlib import Path, PurePosixPath

from data_scripts.extract import unpack
from data_scripts.request import Remote, Request
from dioscuri.errors import UserError

ARCHIVE = Remote(
    name="cifar-10-binary.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
)
_WANTED = (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin", "batches.meta.txt")


def prepare_cifar10(request: Request) -> None:
    """Download and unpack the six binary files and the class names into `cifar-10`."""
    archive = request.get(ARCHIVE)

    def place(name: PurePosixPath) -> Path | None:
        return Path(name.name) if name.name in _WANTED else None

    with request.building("cifar-10") as folder:
        unpack(archive, folder, place)
        missing = [name for name in _WANTED[:-1] if not (folder / name).exists()]
        if missing:
            raise UserError(f"{archive}: {missing[0]} is missing; this is not the binary version of CIFAR-10")
