"""Synthesis with a trained run: load its best checkpoint and run `synthesis.synthesis_mode`."""

from dioscuri.context import Context, Work
from dioscuri.contract import family_run
from dioscuri.restore import load_weights


def synthesize(context: Context) -> None:
    """Run the mode with the best checkpoint, or the newest one if none was validated."""
    prepare_synthesis(context)()


def prepare_synthesis(context: Context) -> Work:
    """Load the checkpoint, or raise a `UserError`; returns the remaining work."""
    averaged = context.hparams.synthesis.load_ema_weights
    checkpoint = load_weights(context, averaged=averaged)
    weights = "averaged" if averaged else "raw"
    context.say(f"{context.hparams.synthesis.synthesis_mode}: {weights} weights of {checkpoint.path}")
    return lambda: family_run(context).synthesise(checkpoint)
