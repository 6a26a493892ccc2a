"""`dioscuri demo`: trained models in the browser."""

from collections.abc import Sequence

from dioscuri.cli.parsers import Parser, add_twin
from dioscuri.demo.exhibit import Exhibit
from dioscuri.demo.server import check_address, require_gradio, serve
from dioscuri.errors import UserError
from dioscuri.library.sources import shipped
from dioscuri.twins import default_twin

_USAGE = """\
[MODEL ...] [--twin torch|jax] [--host HOST] [--port PORT] [--max-upload MB]
MODEL ... --text-encoder MODEL [--text-layer N]"""
_DESCRIPTION = """\
Show trained models in the browser: generate, fill and extend pictures, reconstruct, interpolate, change
latents, and compare the twins. MODEL is a run logs-NAME, a model folder, a hub id or a shipped name (default:
all shipped models). Only this machine can open the page unless --host says otherwise."""
_EXAMPLE = "dioscuri demo digits-vae logs-maskgit_digits"


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("demo", _USAGE, _DESCRIPTION, _EXAMPLE)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models to show")
    add_twin(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--max-upload", type=int, default=8, metavar="MB", help="largest upload, in MB")
    parser.add_argument(
        "--text-encoder", default="", metavar="MODEL", help="CLIP or T5 for prompts: a folder or a hub id"
    )
    parser.add_argument(
        "--text-layer",
        type=int,
        metavar="N",
        help="hidden state of the encoder to use, counted from the end (default -1)",
    )
    return parser


def main(words: Sequence[str]) -> None:
    """Serve the demo until it is interrupted."""
    chosen = make_parser().parse_args(list(words))
    for name, value, most in (("--port", chosen.port, 65535), ("--max-upload", chosen.max_upload, 1024)):
        if not 1 <= value <= most:
            raise UserError(f"{name} must be from 1 to {most}, not {value}")
    if chosen.text_layer is not None and not chosen.text_encoder:
        raise UserError("--text-layer goes with --text-encoder: give that too")
    require_gradio()
    check_address(chosen.host, chosen.port)
    models = chosen.models or list(shipped())
    twin = chosen.twin or default_twin()
    layer = -1 if chosen.text_layer is None else chosen.text_layer
    exhibits = [Exhibit(model, twin, chosen.text_encoder, layer) for model in models]
    if chosen.text_encoder and not any(exhibit.encoder for exhibit in exhibits):
        raise UserError("--text-encoder: none of the models reads texts: leave it out")
    serve(exhibits, chosen.host, chosen.port, chosen.max_upload)
