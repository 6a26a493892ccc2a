"""Make a folder of `pretrained/` from a trained run: options, weights, and a card with measured numbers.

    python tools/pretrained.py RUN NAME [synthesis.option=value ...] --cfg "egs/FAMILY/FILE.cfg [OVERRIDES]"
        [--tokenizer NAME] [--data FOLDER] [--full]

RUN is the folder of a run, NAME that of the new folder, --cfg what was trained, for the card. The weights are
the averaged ones of the best checkpoint, as float16 unless --full says float32; those of a tokenizer are
always float32, since the hash of its weights identifies its tokens. A token model holds the name of its
tokenizer. The numbers are measured on the folder written. --data is the folder that holds mnist10k/.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from itertools import dropwhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment

    enter_environment()

import numpy as np

from dioscuri.checkpoint import pretrained, store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.errors import run_command
from dioscuri.library.sources import shipped
from dioscuri.outputs.pictures import above, by_class, in_rows, save_grid
from dioscuri.outputs.wording import noun
from tools.shipped_numbers import check, measured, picture_model, pictures_of, rows_of

Array = np.ndarray
ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {
    "hierarchical_vae": "[hierarchical VAE](../../docs/hierarchical_vae.md)",
    "metroplex": "[Metroplex](../../docs/metroplex.md), a hierarchical VAE on patches,",
    "vqgan": "[tokenizer](../../docs/tokenizers.md) (VQGAN)",
    "maskgit": "[MaskGIT](../../docs/masked_tokens.md)",
    "sundae": "[SUNDAE](../../docs/sundae.md)",
    "classifier": "[classifier](../../docs/classifier.md)",
}
DATA = {
    "digits": "the handwritten digits of scikit-learn, 8x8, 16 grey levels",
    "photos": "32x32 crops of the colour photographs of scikit-image",
    "film": "clips of the film of scikit-image",
    "mnist10k": "the first 10,000 training digits of MNIST, 28x28, binarised",
    "mnist10k_grey": "the first 10,000 training digits of MNIST, grey",
}
N_SHOWN = 64
_HEADLINES = ("bits/dim|nats|PSNR|accuracy|class agreement", "recall")
"""The number of a card for the page of all models: of these, the first there is."""


def main(words: Sequence[str]) -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("overrides", nargs="*", metavar="synthesis.option=value", help="options of sampling")
    parser.add_argument("--cfg", required=True, help="the configuration that was trained, for the card")
    parser.add_argument("--tokenizer", help="the shipped tokenizer of a token model")
    parser.add_argument("--data", type=Path, default=ROOT / "datasets")
    parser.add_argument("--full", action="store_true", help="float32")
    chosen = parser.parse_intermixed_args(words)
    folder = ROOT / "pretrained" / chosen.name
    dio = import_module("dioscuri.torch")
    trained = dio.load(chosen.run, tokenizer=chosen.tokenizer and ROOT / "pretrained" / chosen.tokenizer)
    write(trained, folder, chosen, full=chosen.full)
    model = dio.load(folder)
    print(f"{folder}: {model}")
    with TemporaryDirectory() as whole:  # the same options of sampling, in float32
        write(trained, Path(whole), chosen, full=True)
        difference = _difference(dio.load(whole), model)
    rows = [*measured(model, chosen.data), *difference, check(model)]
    shown(model, chosen.data, folder / "samples.png")
    (folder / "README.md").write_text(card(model, chosen, facts(chosen.run, folder), rows), encoding="utf-8")
    write_page(ROOT / "docs" / "shipped_models.md")


def write(model: Any, folder: Path, chosen: Any, *, full: bool) -> None:
    """The folder that `model.save` writes, with the chosen name, options and tokenizer, in float16 unless
    `full`."""
    model.save(folder)
    if chosen.tokenizer:
        shutil.rmtree(folder / pretrained.TOKENIZER)
    hparams = pretrained.read_hparams(folder, [f"run.name={chosen.name}", *chosen.overrides])
    keeps = full or model.family == "vqgan"
    weights = {
        key: array if keeps else array.astype(np.float16) for key, array in model._network.weights().items()
    }
    origin, tokenizer = pretrained.origin_of(folder), chosen.tokenizer or ""
    pretrained.write_folder(folder, hparams, weights, origin=origin, tokenizer=tokenizer)


def facts(run: Path, folder: Path) -> dict[str, Any]:
    """What the run says of its training, and the size of the folder."""
    checkpoint = store.load(RunDirectory(run).checkpoints, groups=())
    settings = json.loads((run / "settings.json").read_text())
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    info = checkpoint.info
    return {
        "twin": {"torch": "PyTorch", "jax": "JAX"}[settings["twin"]],
        "folder": f"{settings['twin']}_impl",
        "seed": settings["seed"],
        "steps": checkpoint.step,
        "batch": info["hparams"]["train"]["batch_size"],
        "best": info["best_step"],
        "seconds": round(info["seconds"]),
        "megabytes": size / 1e6,
    }


def _difference(trained: Any, model: Any) -> list[tuple[str, str]]:
    """How far float16 moves the pictures of the same noise."""
    if "generate" not in model.does or trained.family == "vqgan":
        return []
    options = {"output": "sample"} if "bound" in model.does else {}
    noise = model.draw_noise("generate", N_SHOWN, **options)
    one, other = (
        each.generate(N_SHOWN, noise=noise, **options).astype(np.int16) for each in (trained, model)
    )
    same = np.mean([np.abs(a - b).max() <= 1 for a, b in zip(one, other, strict=True)])
    what = noun(picture_model(model).hparams)
    return [(f"of {N_SHOWN} {what} of the same noise, equal to those of the float32 weights", f"{same:.0%}")]


def shown(model: Any, data: Path, path: Path) -> None:
    """A sheet of samples, of reconstructions, or nothing."""
    if "generate" in model.does:
        n = getattr(model, "num_classes", 0)
        made = model.generate(8 * n or N_SHOWN, seed=1)
        rows, captions = by_class(made, np.arange(8 * n) % n) if n else (in_rows(made), ())
        save_grid(path, rows, captions)
    elif "reconstruct" in model.does:
        originals = pictures_of(model, data).test.gather(np.arange(32))
        save_grid(path, above(originals, model.reconstruct(originals)))


def card(model: Any, chosen: Any, known: Mapping[str, Any], rows: Sequence[tuple[str, str]]) -> str:
    """The card in Markdown."""
    name, source = chosen.name, pictures_of(model, chosen.data)
    *times, H, W, C = model.picture_shape
    what = noun(picture_model(model).hparams)
    length = f" of {times[0]} frames" if times else ""
    dtype = "float32" if chosen.full or model.family == "vqgan" else "float16"
    uses = {"vqgan": "reconstruct(pictures)", "classifier": "classify(pictures)"}
    picture = f"![{name}](samples.png)" if (ROOT / "pretrained" / name / "samples.png").is_file() else ""
    cfg = f'"{chosen.cfg}"' if " " in chosen.cfg else chosen.cfg
    words = ["python tools/pretrained.py RUN", name, *chosen.overrides, "--cfg", cfg]
    words += [f"--tokenizer {chosen.tokenizer}"] if chosen.tokenizer else []
    facts = {
        "data": f"{DATA[picture_model(model).hparams.data.dataset_source]}: {len(source.train):,} training, "
        f"{len(source.validation):,} validation, {len(source.test):,} test {what}",
        "parameters": f"{model.num_parameters:,}, {dtype}; {known['megabytes']:.1f} MB",
        **({"tokenizer": chosen.tokenizer} if chosen.tokenizer else {}),
        "command": f"`sh {known['folder']}/train.sh {chosen.cfg}`",
        "training": f"{known['twin']}, seed {known['seed']}, {known['steps']:,} batches of {known['batch']}, "
        f"{known['seconds']:,} seconds on a busy machine with two CPU cores; "
        f"step {known['best']:,} was the best",
        "made by": f"`{' '.join(words)}{' --full' if chosen.full else ''}`",
    }
    parts = [
        f"# {name}",
        f"A {FAMILIES[model.family]} for {H}x{W} {what}{length} with {C} channel{'s' if C > 1 else ''}.",
        *([picture] if picture else []),
        f"""```python
from dioscuri import torch as dio  # or jax

dio.load("{name}").{uses.get(model.family, "generate(16, seed=1)")}
```""",
        table("", "", facts.items()),
        table("measured on this folder", "", rows),
    ]
    return "\n\n".join(parts) + "\n"


def table(first: str, second: str, rows: Iterable[tuple[str, str]]) -> str:
    """A table in Markdown."""
    return "\n".join(
        [f"| {first} | {second} |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]
    )


def write_page(path: Path) -> None:
    """Write the table of all shipped models from their cards into the page."""
    head, rule, rest = path.read_text(encoding="utf-8").partition("|---|---|---|---|---|\n")
    rest = "".join(dropwhile(lambda line: line.startswith("|"), rest.splitlines(keepends=True)))
    rows = []
    for name, folder in shipped().items():
        of_card = rows_of(folder / "README.md")
        family = FAMILIES[pretrained.read_hparams(folder).run.family].partition("]")[0].lstrip("[")
        data, size = of_card["data"].partition(":")[0], of_card["parameters"]
        measures = list(of_card.items())[list(of_card).index("made by") + 1 :]
        numbers = [
            f"{what}: {value}" for key in _HEADLINES for what, value in measures if re.search(key, what)
        ]
        number = numbers[0] if numbers else ""
        rows.append(f"| [{name}](../pretrained/{name}/README.md) | {family} | {data} | {size} | {number} |\n")
    path.write_text(f"{head}{rule}{''.join(rows)}{rest}", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
