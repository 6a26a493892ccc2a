"""Host logic of SUNDAE: logged metrics and checks of its options."""

from collections.abc import Mapping
from math import prod

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.contract import Family
from dioscuri.data.characters import CODES, decode
from dioscuri.data.descriptors import describe
from dioscuri.errors import UserError
from dioscuri.families.classes import check_classes
from dioscuri.families.sundae.options import HParams
from dioscuri.families.sundae.plan import parameter_table, plan_of
from dioscuri.families.sundae.training import sampling_arguments
from dioscuri.families.token_models.checks import check_tokenizer, check_tokens
from dioscuri.families.token_models.drawing import check_draws, draw
from dioscuri.families.token_models.modes.generation import number_of_pictures
from dioscuri.families.token_models.modes.inpainting import unknown_tokens
from dioscuri.families.token_models.modes.interactive import Menu
from dioscuri.families.token_models.run_logic import TokenModelRun
from dioscuri.files import replacing
from dioscuri.outputs.settings import output_folder
from dioscuri.outputs.tags import step_tags, with_skips
from dioscuri.plans.parameters import shapes

MAX_PARAMETERS = 10**11


def check_options(hparams: HParams) -> None:
    """Raise a `UserError` that names options that do not fit together."""
    data = hparams.data
    plan = plan_of(hparams)
    size = sum(prod(parameter.shape) for parameter in parameter_table(plan).values())
    if size > MAX_PARAMETERS:
        raise UserError(f"[model] has {size:,} parameters, more than {MAX_PARAMETERS:,}: lower its widths")
    check_classes(hparams)
    _check_kind(hparams)
    if data.grid:
        unknown_tokens(hparams, plan)
    if data.text_length or data.null_text_path or data.text_encoder_path:
        raise UserError(
            "[data] text_length, null_text_path and text_encoder_path: family 'sundae' reads no captions: "
            "leave them out"
        )
    if data.tokenizer_path:
        check_tokenizer(hparams)
    elif not describe(data.dataset_source).tokens:
        _check_levels(hparams)


def check_examples(context: Context) -> None:
    """Raise a `UserError` if training examples have another tokenizer or other classes than the model."""
    check_tokens(context)


class SundaeRun(TokenModelRun):
    """See `dioscuri.contract.FamilyRun`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, plan_of(context.hparams))

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """`Unrolled/cross_entropy_<k>` is the cross-entropy of pass k."""
        passes = {
            f"Unrolled/cross_entropy_{k}": metrics[f"unrolled.{k}"]
            for k in range(self.hparams.loss.unroll_steps)
        }
        return {
            "Losses/total": metrics["loss"],
            "Unrolled/accuracy": metrics["accuracy"],
            **passes,
            **step_tags(metrics, self.scalars(step - 1), self.hparams),
        }

    def headline(self, metrics: Mapping[str, float]) -> str:
        """Loss, accuracy and skipped updates, if any."""
        return with_skips(f"loss {metrics['loss']:.4g} nats, accuracy {metrics['accuracy']:.1%}", metrics)

    def synthesise(self, checkpoint: Checkpoint) -> None:
        """Run the mode of `synthesis.synthesis_mode`; a model of text writes `generated/texts.txt`."""
        options = self.hparams.synthesis
        if self.plan.grid and options.synthesis_mode == "interactive":
            check_draws(self.hparams)
            Menu(self.context, self.plan, checkpoint).run()
            return
        if self.plan.grid:
            super().synthesise(checkpoint)
            return
        if options.synthesis_mode != "generation" or options.film != "none":
            mode = options.synthesis_mode
            asked = "film" if mode == "generation" else f"synthesis_mode '{mode}'"
            raise UserError(f"[synthesis] {asked} needs pictures, not text")
        output = output_folder(self.context, checkpoint, self.context.directory.images, "generated")
        lines: list[str] = []
        for made in draw(self.context, number_of_pictures(options), ema=options.load_ema_weights):
            lines += map(decode, made["tokens"])
        if self.context.writes:
            with replacing(output.path / "texts.txt") as temporary:
                temporary.write_text("\n".join([*lines, ""]))
            self.context.say(f"{len(lines)} texts in {output.path / 'texts.txt'}, the first: {lines[0]}")
        output.finish(len(lines))


def _check_kind(hparams: HParams) -> None:
    """Check that text has a sequence length and pictures a grid."""
    data, is_text = hparams.data, hparams.data.dataset_source == "text"
    if is_text and (data.grid or data.codebook_size != CODES or hparams.model.num_classes):
        raise UserError(
            f"[data] dataset_source 'text' needs grid=0, codebook_size={CODES} and model.num_classes=0"
        )
    if not is_text and not data.grid:
        raise UserError(f"[data] grid is 0, which is for text, not for '{data.dataset_source}'")


def _check_levels(hparams: HParams) -> None:
    """Check the options of pictures without a tokenizer, whose grey levels are the tokens."""
    data = hparams.data
    if data.channels != 1 or data.grid != data.target_res or data.codebook_size > 256:
        raise UserError(
            f"[data] tokenizer_path is empty, so grey levels of '{data.dataset_source}' are the tokens: set "
            f"channels=1, grid={data.target_res} as target_res, and codebook_size to at most 256"
        )


def _network_shapes(hparams: HParams) -> dict[str, tuple[int, ...]]:
    return shapes(parameter_table(plan_of(hparams)))


FAMILY = Family(
    run=SundaeRun,
    check_options=check_options,
    network_shapes=_network_shapes,
    check_examples=check_examples,
    arguments=sampling_arguments,
    takes_tokens=True,
    grey_levels=True,
)
