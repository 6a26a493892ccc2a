"""Layers of the classifier, and the table of their parameters."""

from dataclasses import dataclass
from functools import lru_cache

from dioscuri.errors import UserError
from dioscuri.families.classifier.options import HParams
from dioscuri.plans.parameters import ONES, ZEROS, Init, Parameter, Table

METRICS = ("loss", "accuracy")


@dataclass(frozen=True)
class ClassifierPlan:
    """`blocks` has one tuple per level with the input and output channels of its blocks; all but
    the first block are residual."""

    blocks: tuple[tuple[tuple[int, int], ...], ...]
    num_classes: int

    @property
    def width(self) -> int:
        """Length of a feature vector."""
        return self.blocks[-1][-1][1]


@lru_cache  # host logic and both sides of the engine need the same plan
def make_plan(hparams: HParams) -> ClassifierPlan:
    """Layers of a run; a `UserError` if its pictures cannot be halved once per level."""
    model, resolution, channels = hparams.model, hparams.data.target_res, hparams.data.channels
    halvings = len(model.widths) - 1
    if halvings < 0 or resolution % 2**halvings:
        raise UserError(
            f"[model] widths has {halvings + 1} levels: pictures of data.target_res {resolution} cannot be "
            f"halved {max(0, halvings)} times; give another number of widths"
        )
    inputs = (channels, *model.widths)
    blocks = tuple(
        ((before, width), *[(width, width)] * model.n_blocks)
        for before, width in zip(inputs, model.widths, strict=False)
    )
    return ClassifierPlan(blocks, model.num_classes)


def parameter_table(plan: ClassifierPlan) -> Table:
    """Canonical names, shapes and initial values of the parameters."""
    table: Table = {}
    for i, level in enumerate(plan.blocks):
        for j, (inputs, outputs) in enumerate(level):
            name = f"levels.{i}.{j}"
            table[f"{name}.conv.weight"] = Parameter((outputs, inputs, 3, 3), Init("glorot_uniform"))
            table[f"{name}.conv.bias"] = Parameter((outputs,), ZEROS, decays=False)
            table[f"{name}.norm.weight"] = Parameter((outputs,), ONES, decays=False)
            table[f"{name}.norm.bias"] = Parameter((outputs,), ZEROS, decays=False)
    table["output.weight"] = Parameter((plan.num_classes, plan.width), Init("glorot_uniform"))
    table["output.bias"] = Parameter((plan.num_classes,), ZEROS, decays=False)
    return table
