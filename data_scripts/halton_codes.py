"""Token shards from the codes that Halton-MaskGIT extracts, one pickle per picture, without unpickling any.

python data_scripts/halton_codes.py FOLDER TOKENS --tokenizer torch_impl/logs-NAME

FOLDER holds `0000000.pth`, ...: `code`, integers (h, w), and `y`, the class. The shards name the run of the
tokenizer that made them (`dioscuri convert` makes one from LlamaGen's weights).
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dioscuri.checkpoint.makers import named
from dioscuri.data.listing import folder_files
from dioscuri.data.tokens import TokenWriter
from dioscuri.errors import UserError, run_command
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.pickles import Foreign, read_plain


def convert(source: Path, target: Path, tokenizer: Path) -> int:
    """Write the shards; return the number of pictures. A `UserError` names a file that does not fit."""
    trained = open_tokenizer(tokenizer)
    plan = trained.plan
    paths = folder_files(source, (".pth",)) if source.is_dir() else []
    if not paths:
        raise UserError(f"{source} is not a folder with files 0000000.pth, 0000001.pth, ...")
    grid = plan.token_shape
    samples = [read_sample(path, grid, plan.codebook_size) for path in tqdm(paths, disable=None)]
    header = {
        "grid": list(grid),
        "codebook_size": plan.codebook_size,
        "tokenizer": named(trained),
    }
    labels = np.array([label for _, label in samples])
    writer = TokenWriter(target, header, [path.stem for path in paths], labels)
    writer.add(np.array([code for code, _ in samples[writer.n_pictures :]]).reshape(-1, *grid))
    writer.finish()
    return writer.n_pictures


def read_sample(path: Path, grid: tuple[int, ...], codebook_size: int) -> tuple[np.ndarray, int]:
    """Codes, (h, w) or (L,), and class of a file; a `UserError` if it holds anything else."""
    try:
        sample = read_plain(_pickle_of(path.read_bytes()))
        code, label = np.asarray(sample["code"]), int(sample["y"])
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (Foreign, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no code with a class: {error}") from error
    if code.shape != grid or code.dtype.kind not in "iu":
        raise UserError(f"{path}: code is {code.dtype} {code.shape}, but the tokenizer makes integers {grid}")
    if code.min() < 0 or code.max() >= codebook_size or label < 0:
        raise UserError(
            f"{path}: code {code.max()} is not below {codebook_size}, or class {label} does not exist"
        )
    return code, label


def _pickle_of(content: bytes) -> bytes:
    """The pickle inside PyTorch's archive."""
    if not content.startswith(b"PK"):
        return content
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inner = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if len(inner) != 1 or archive.getinfo(inner[0]).file_size > 1 << 26:
                raise Foreign("the archive is not one of PyTorch")
            return archive.read(inner[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise Foreign(f"damaged: {error}") from error


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Token shards from Halton-MaskGIT's extracted codes.")
    parser.add_argument("source", type=Path, metavar="FOLDER")
    parser.add_argument("target", type=Path, metavar="TOKENS")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="RUN")
    options = parser.parse_args(arguments)
    count = convert(options.source, options.target, options.tokenizer)
    print(f"wrote the tokens of {count} pictures to {options.target}")


if __name__ == "__main__":
    run_command(main)
