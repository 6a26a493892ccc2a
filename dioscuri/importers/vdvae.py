"""VD-VAE (openai/vdvae): its weights as ours."""

from collections.abc import Mapping

import numpy as np

from dioscuri.families.metroplex.options import HParams
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.importers.metroplex import Rules, Weights, converted

RULES: Rules = (
    (r"^encoder\.in_conv\.", "bottom_up.input_conv."),
    (r"^encoder\.enc_blocks\.(\d+)\.", r"bottom_up.blocks.\1.cell."),
    (r"^decoder\.dec_blocks\.(\d+)\.enc\.", r"top_down.blocks.\1.posterior."),
    (r"^decoder\.dec_blocks\.(\d+)\.prior\.", r"top_down.blocks.\1.prior."),
    (r"^decoder\.dec_blocks\.(\d+)\.resnet\.", r"top_down.blocks.\1.residual."),
    (r"^decoder\.dec_blocks\.(\d+)\.z_proj\.", r"top_down.blocks.\1.z_projection."),
    (r"^decoder\.(gain|bias)$", r"top_down.\1"),
    (r"^decoder\.out_net\.out_conv\.", "top_down.output_conv."),
    (r"\.c([1-4])\.", lambda match: f".convs.{int(match[1]) - 1}."),
)


def from_vdvae(arrays: Mapping[str, np.ndarray], hparams: HParams) -> Weights:
    """Weights of openai/vdvae (`*-model.th` or `*-model-ema.th`) as canonical tensors.

    Its learned starts are numbered from the coarsest on.
    """
    plan = make_plan(hparams)
    starts: Rules = [
        (rf"^decoder\.bias_xs\.{i}$", f"top_down.start.{side}") for i, side in enumerate(plan.start)
    ]
    return converted(arrays, (*RULES, *starts), hparams, plan, "weights")
