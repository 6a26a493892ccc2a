"""Check one NVIDIA card within a few minutes: parity of the twins, speed, and three small trainings.

    python tools/gpu_check.py --minutes 9 --out DIR [--data FOLDER] [--parts parity,rows,mnist10k,cifar10]
                              [--rows TEXT] [--rehearse]

The parts run in this order. Each has a share of the time; what it leaves goes to the next, and what it does
not reach is skipped. Results are written after every step: `DIR/results.json`, `results.md`, `log.txt`, and
the samples and weights of the last part: eight files of at most 16 MB. FOLDER holds the pictures,
`mnist10k.npz` and `cifar10_jpeg_20k.npz`; by default `shared/data` in the project or beside it. This
interpreter's packages are used, whatever the project pins, and the results name them. `--rehearse` does
all of it on the CPU with tiny models and random pictures.
"""

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dioscuri.errors import UserError, run_command
from dioscuri.places import PROGRAMS
from dioscuri.versions import versions
from tools.gpu.pictures import CIFAR, random_pictures
from tools.gpu.rows import measure_rows
from tools.gpu.session import Session
from tools.gpu.training import train_digits, train_tokens

ENDS = {"parity": 0.15, "rows": 0.55, "mnist10k": 0.75, "cifar10": 1.0}
"""Where the parts end, as shares of the time."""
_RESERVE = 10
"""Seconds at the end to stop the last program and to write."""
_LEAST_SECONDS = 15
PACKAGES = ("einops", "flax", "jax", "optax", "safetensors", "sklearn", "torch", "tqdm")
FOR_TRAINING = ("tensorboard", "scipy", "skimage")


def main(words: Sequence[str]) -> None:
    """Parse the command line and run the parts."""
    options = parse(words)
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"this Python lacks {', '.join(missing)}: install them, or use another Python")
    options.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with TemporaryDirectory(prefix="gpu-check-") as work:
        end = begun + 60 * options.minutes - (0 if options.rehearse else _RESERVE)
        session = Session(options.out, Path(work), end, options.rehearse)
        session.results |= {
            "minutes": options.minutes,
            "card": card(options.rehearse),
            "versions": versions(),
        }
        data = options.data
        if options.rehearse:
            data = session.work / "pictures"
            data.mkdir()
            random_pictures(data)
        run_parts(session, options, data, begun)
    print(f"results in {options.out}: {time.monotonic() - begun:.0f} s")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(prog="gpu_check.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, default=usual_data(), metavar="FOLDER")
    parser.add_argument("--parts", default=",".join(ENDS), help=f"of {', '.join(ENDS)}")
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows whose name contains it")
    parser.add_argument("--rehearse", action="store_true", help="tiny models on the CPU")
    options = parser.parse_args(list(words))
    options.parts, options.out = options.parts.split(","), options.out.absolute()
    unknown = [name for name in options.parts if name not in ENDS]
    if unknown:
        raise UserError(f"--parts {unknown[0]} is unknown: take {', '.join(ENDS)}")
    if not options.minutes > 0:
        raise UserError(f"--minutes {options.minutes:g} must be above 0")
    trains = not {"mnist10k", "cifar10"}.isdisjoint(options.parts)
    if trains and not options.rehearse and not (options.data / CIFAR).is_file():
        raise UserError(f"{options.data / CIFAR} does not exist: give the folder that holds it with --data")
    return options


def usual_data() -> Path:
    """The folder of pictures in the project or beside it."""
    inside, beside = PROGRAMS / "shared" / "data", PROGRAMS.parent / "shared" / "data"
    return inside if inside.is_dir() else beside


def card(rehearse: bool) -> str:
    """Name, memory and driver of the card; a `UserError` if there is none."""
    if rehearse:
        return "none: a rehearsal on the CPU"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError("nvidia-smi finds no card here: --rehearse runs on the CPU") from error


def run_parts(session: Session, options: argparse.Namespace, data: Path, begun: float) -> None:
    """Run the parts in order, each until its time is up."""
    parts: dict[str, Callable[[float], Any]] = {
        "parity": lambda until: compare_twins(session, until),
        "rows": lambda until: measure_rows(session, until, options.rows),
        "mnist10k": lambda until: train_digits(session, data, until),
        "cifar10": lambda until: train_tokens(session, data, until),
    }
    untrained = [name for name in FOR_TRAINING if find_spec(name) is None]
    for name in options.parts:
        until = begun + (session.end - begun) * (1.0 if name == options.parts[-1] else ENDS[name])
        print(f"{name}: {session.left(until):.0f} s", flush=True)
        if session.left(until) < _LEAST_SECONDS:
            session.results[name] = {"status": "skipped: its time was up"}
        elif untrained and name in ("mnist10k", "cifar10"):
            session.results[name] = {"status": f"skipped: this Python lacks {', '.join(untrained)}"}
        else:
            _attempt(session, name, parts[name], until)
        session.write()


def _attempt(session: Session, name: str, part: Callable[[float], Any], until: float) -> None:
    """Run a part. A card is lent for minutes: a fault of one part must not cost the others."""
    try:
        part(until)
    except Exception as error:
        traceback.print_exc()
        session.results[f"{name} failed"] = f"{type(error).__name__}: {error}"


def compare_twins(session: Session, until: float) -> None:
    """Both twins in float32, without TF32."""
    words = ["tools/gpu/parity.py", *(["--cpu"] if session.rehearse else [])]
    program = session.run("parity", words, session.left(until))
    families = {record.pop("family"): record for record in program.records()}
    session.results["parity"] = families | program.outcome()


if __name__ == "__main__":
    run_command(main)
