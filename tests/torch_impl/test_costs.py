"""The plan's arithmetic against a count of what the PyTorch model really does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.plans.costs import forward_flops, generation_flops
from common.plans.hierarchical_vae import make_plan
from tests.parity.option_cases import load_case
from torch_impl.models.hierarchical_vae import HierarchicalVAE

BATCH = 2


def noise(draws):
    return {draw.name: torch.zeros(draw.shape) for draw in draws}


@pytest.mark.parametrize("use_1x1_conv", [True, False])
def test_plan_counts_what_the_model_does(use_1x1_conv):
    options = load_case({"model.use_1x1_conv": use_1x1_conv})
    plan = make_plan(options)
    model = HierarchicalVAE(plan, options.model, dtype=torch.float32)
    pictures = torch.zeros(BATCH, plan.resolution, plan.resolution, plan.channels)
    with FlopCounterMode(display=False) as forward:
        model(pictures, noise(plan.latent_noise(BATCH, prior=False, posterior=True)))
    with FlopCounterMode(display=False) as generation:
        model.generate(
            noise(plan.latent_noise(BATCH, prior=True, posterior=False)), torch.ones(len(plan.down))
        )
    assert forward.get_total_flops() == BATCH * forward_flops(plan)
    assert generation.get_total_flops() == BATCH * generation_flops(plan)
