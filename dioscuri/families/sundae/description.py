"""What `dioscuri describe` shows of SUNDAE."""

from dioscuri.families.sundae.options import HParams
from dioscuri.families.sundae.plan import Level, Stack, parameter_table, plan_of
from dioscuri.plans.description import Description, Row, extent, token_rows
from dioscuri.plans.parameters import shapes


def describe(hparams: HParams) -> Description:
    """The stacks of the hourglass and the tokens; a `UserError` names an option that does not fit."""
    plan = plan_of(hparams)
    rows: list[Row] = [
        {
            "tokens": extent([stack.side] * 2) if plan.grid else plan.n_tokens,
            "width": plan.options.dim,
            "heads": plan.options.nb_heads,
            "layers": stack.depth,
        }
        for stack in _stacks(plan.body)
    ]
    return Description(
        shapes=shapes(parameter_table(plan)),
        facts={
            "tokens": plan.n_tokens,
            "codes": plan.codebook_size,
            "classes": plan.options.num_classes,
            "sampling_steps": hparams.synthesis.steps,
        },
        layers={"hourglass" if isinstance(plan.body, Level) else "transformer": rows},
        rows=token_rows(hparams.data, plan.n_tokens, plan.options.num_classes),
    )


def _stacks(body: Stack | Level) -> list[Stack]:
    """Stacks of layers in order of execution."""
    return [body] if isinstance(body, Stack) else [body.before, *_stacks(body.inside), body.after]
