"""`dioscuri convert`: make runs from published weights and the originals' checkpoints, and convert back."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from dioscuri.checkpoint.torch_files import torch_bytes
from dioscuri.cli.parsers import Parser, output_file
from dioscuri.errors import UserError
from dioscuri.importers.convert import Step, convert_configuration, export, export_run, import_run
from dioscuri.importers.layouts import LAYOUTS
from dioscuri.importers.published_run import Request
from dioscuri.library.sources import shipped_or
from dioscuri.places import configuration

_USAGE = """\
SOURCE --run FOLDER/logs-NAME [--config FILE] [--cfg FILE] [section.option=value ...]
CONFIGURATION --to-cfg OUT.cfg [section.option=value ...]
FOLDER/logs-NAME --to-folder OUT [--to PROJECT [--text-encoder FOLDER]] [--step N|best]
FOLDER/logs-NAME --to-torch OUT [--step N|best]"""
_DESCRIPTION = """\
The first form makes a run. With torch_impl or jax_impl as FOLDER, train.sh and synthesize.py of that twin
use it. SOURCE is one of
  a folder with config.json and weights, published by open-muse or diffusers (aMUSEd) or written by the third
  form or save_pretrained, such a model on the hub, owner/model or owner/model/folder, or a shipped model;
  weights of taming-transformers or latent-diffusion, with their YAML file as --config;
  weights of VD-VAE (model.th, model-ema.th), with the matching file of egs/vdvae as --cfg;
  weights of Google's MaskGIT, Halton-MaskGIT or LlamaGen's tokenizer, with the matching file of egs/
  as --cfg;
  a checkpoint of SUNDAE (sundae-vqgan, text8), with the matching file of egs/sundae or one written by
  data_scripts/convert_toml.py as --cfg;
  a checkpoint of Efficient-VDVAE, with its .cfg as --cfg: the PyTorch program's file, or the JAX program's
  checkpoint_<step> or a folder of these (the newest is used).
--config sets the architecture, --cfg the remaining options (default: egs/<family>/published.cfg). The second
form converts an open-muse training configuration to a .cfg and lists the keys it drops. The third form writes
a run's averaged weights, by default of the newest checkpoint, to a folder that from_pretrained of both twins
opens, or, with --to, as the project of that name publishes its models. The fourth writes a checkpoint of an
Efficient-VDVAE run in the PyTorch program's format."""


_EXAMPLE = "dioscuri convert amused/amused-256/vqvae --run torch_impl/logs-amused"


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("convert", _USAGE, _DESCRIPTION, _EXAMPLE)
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("overrides", nargs="*", metavar="section.option=value")
    parser.add_argument("--cfg", type=Path, metavar="FILE", help="options of the run, a .cfg of this project")
    parser.add_argument("--config", type=Path, metavar="FILE", help="published configuration, JSON or YAML")
    parser.add_argument("--run", type=Path, metavar="FOLDER/logs-NAME", help="run to create")
    parser.add_argument(
        "--weights",
        choices=("average", "raw"),
        help="which weights to use if a checkpoint holds both (default: average)",
    )
    parser.add_argument(
        "--string-sorted-classes",
        action="store_true",
        help="the SUNDAE checkpoint was trained on one folder per class and numbers classes by sorted name "
        "(0, 1, 10, 11, 2, ...): reorder them numerically. Do not use it to train on shards of "
        "import_latents.py --legacy-classes",
    )
    parser.add_argument(
        "--to-torch", type=output_file, metavar="OUT", help="file to write in the PyTorch layout"
    )
    parser.add_argument("--to-cfg", type=output_file, metavar="OUT.cfg", help="configuration to write")
    parser.add_argument("--to-folder", type=Path, metavar="OUT", help="folder to write for from_pretrained")
    parser.add_argument("--to", choices=tuple(LAYOUTS), help="project whose layout --to-folder writes")
    parser.add_argument(
        "--text-encoder",
        type=Path,
        metavar="FOLDER",
        help="with --to diffusers: write a whole pipeline, with this CLIP text encoder and its tokenizer",
    )
    parser.add_argument("--step", metavar="N|best", help="checkpoint to write (default: the newest)")
    return parser


def main(words: Sequence[str]) -> None:
    """Run a command line."""
    parser = make_parser()
    chosen = parser.parse_intermixed_args(list(words))
    if chosen.cfg is not None:
        chosen.cfg, _ = configuration(chosen.cfg)
    _check_options(chosen, parser)
    target = chosen.to_torch or chosen.to_folder
    if chosen.to_cfg is not None:
        convert_configuration(chosen.source, chosen.to_cfg, chosen.overrides)
    elif target is not None:
        step = _step(chosen.step)
        if not chosen.source.is_dir():
            raise UserError(f"there is no run folder {chosen.source}")
        if chosen.to_torch is not None:
            export(chosen.source, target, step, torch_bytes)
        else:
            print(export_run(chosen.source, target, step, chosen.to or "", chosen.text_encoder))
    else:
        request = Request(
            source=shipped_or(chosen.source),
            run=chosen.run,
            config=chosen.config,
            cfg=chosen.cfg,
            overrides=chosen.overrides,
            choice=chosen.weights,
            string_sorted_classes=chosen.string_sorted_classes,
        )
        import_run(request)


def _check_options(chosen: Namespace, parser: Parser) -> None:
    """End with the usage unless the words name one target and nothing that it does not read."""
    run, writes = chosen.run is not None, chosen.to_torch is not None or chosen.to_folder is not None
    if writes and (run or chosen.cfg or chosen.config or chosen.overrides):
        parser.error("--to-torch and --to-folder take their options from the run")
    targets = (chosen.run, chosen.to_cfg, chosen.to_folder, chosen.to_torch)
    if len(targets) - targets.count(None) != 1:
        parser.error("give --run, --to-cfg, --to-folder or --to-torch")
    for option, goes_with, read in (
        ("--cfg", "--run", run),
        ("--config", "--run", run),
        ("--weights", "--run", run),
        ("--string-sorted-classes", "--run", run),
        ("--step", "--to-folder and --to-torch", writes),
        ("--to", "--to-folder", chosen.to_folder is not None),
        ("--text-encoder", "--to diffusers", chosen.to == "diffusers"),
    ):
        if getattr(chosen, option[2:].replace("-", "_")) and not read:
            parser.error(f"{option} is for {goes_with}")


def _step(text: str | None) -> Step:
    if text is None:
        return None
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise UserError(f"--step {text} is neither a number nor 'best'")
    return int(text)
