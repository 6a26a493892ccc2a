"""Save a token model with its tokenizer and write a sheet of its samples, eight of each of ten classes.

python tools/gpu/samples.py RUN OUT
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dioscuri import torch as dio
from dioscuri.errors import run_command
from dioscuri.outputs.pictures import in_rows, save_grid

MAX_BYTES = 16 << 20


def main(words: Sequence[str]) -> None:
    """Write `OUT/maskgit` and `OUT/samples.png`; weights above 16 MB are left out."""
    run, out = map(Path, words)
    model = dio.load(run)
    pictures = model.generate(classes=[c for _ in range(8) for c in range(10)], seed=0)
    save_grid(out / "samples.png", in_rows(pictures, 10))
    model.save(out / "maskgit")
    files = [file for file in sorted((out / "maskgit").rglob("*")) if file.is_file()]
    large = [file for file in files if file.stat().st_size > MAX_BYTES]
    for file in large:
        file.unlink()
    print(json.dumps({"parameters": model.num_parameters, "left out": [file.name for file in large]}))


if __name__ == "__main__":
    run_command(main)
