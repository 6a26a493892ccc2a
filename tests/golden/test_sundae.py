"""Both twins reproduce SUNDAE's networks: logits, intermediates, gradients."""

import numpy as np
import pytest

from tests.golden.recorded import cases
from tests.golden.recorded_sundae import HOURGLASS, condition_of, opened
from tests.golden.recorded_transformers import close, cross_entropy
from tests.support.transformers import TWINS


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(HOURGLASS))
def test_hourglass(name, folder, case):
    run = opened(name, folder, case)
    targets, probe = run.inputs["targets"], run.inputs["R"]
    condition = condition_of(run)
    _, grad = cross_entropy(run.outputs["logits"], targets, np.full(targets.shape, 1 / targets.size))
    found, gradients = run.twin.both(run.inputs["x"], condition, {"logits": grad + probe / probe.size})
    close(run, found["logits"], "logits")
    loss, _ = cross_entropy(found["logits"], targets, np.full(targets.shape, 1 / targets.size))
    close(run, loss + (found["logits"] * probe).mean(), "loss")
    recorded = [output for output in run.outputs if output.startswith("act/")]
    assert recorded
    for output in recorded:
        close(run, found[output.removeprefix("act/")], output)
    compared = [output for output in run.outputs if output.startswith("grad/")]
    assert compared
    for output in compared:
        close(run, gradients[output.removeprefix("grad/")], output, "gradients")
