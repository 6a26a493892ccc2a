"""Both twins reproduce SUNDAE's networks: logits, intermediates, gradients."""

import numpy as np
import pytest

from tests.golden.recorded import cases
from tests.golden.recorded_sundae import HOURGLASS, condition_of, opened
from tests.golden.recorded_tokens import cross_entropy
from tests.support.transformers import TWINS

KINDS = [HOURGLASS]


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("case", cases(HOURGLASS))
def test_hourglass(name, case):
    run = opened(name, case)
    targets, probe = run.inputs["targets"], run.inputs["R"]
    weights = np.full(targets.shape, 1 / targets.size)
    _, grad = cross_entropy(run.outputs["logits"], targets, weights)
    cotangents = {"logits": grad + probe / probe.size}
    actual, gradients = run.twin.both(run.inputs["x"], condition_of(run), cotangents)
    run.close(actual["logits"], "logits")
    loss, _ = cross_entropy(actual["logits"], targets, weights)
    run.close(loss + (actual["logits"] * probe).mean(), "loss")
    for output in case.of_prefix("act/"):
        run.close(actual[output], f"act/{output}")
    for output in case.of_prefix("grad/"):
        run.close(gradients[output], f"grad/{output}", tolerance="gradients")
