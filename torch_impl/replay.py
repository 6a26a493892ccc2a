"""Records a device step as a CUDA graph and replays it: kernel launches dominate
the step of small networks."""

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

WARM_UP = 3
"""Ordinary calls before the recording, for compilation, cuDNN's benchmarks and libraries' workspaces."""

Inputs = Mapping[str, Mapping[str, Tensor]]
"""Groups of named tensors."""
Step = Callable[[Inputs], None]


class Replay:
    """Runs steps that read their input tensors and change state in place.

    With `enabled`, each step, identified by `key`, is recorded after `WARM_UP` calls. A recording reads its
    inputs from fixed memory, to which each call copies them.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.calls: dict[Hashable, int] = {}
        self.recordings: dict[Hashable, tuple[torch.cuda.CUDAGraph, dict[str, dict[str, Tensor]]]] = {}

    def __call__(self, step: Step, inputs: Inputs, key: Hashable) -> None:
        """Run the step."""
        if not self.enabled:
            step(inputs)
            return
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] <= WARM_UP:
            self._warm_up(step, inputs)
            return
        if key not in self.recordings:
            self.recordings[key] = self._record(step, inputs)
        graph, memory = self.recordings[key]
        for group, tensors in inputs.items():
            for name, tensor in tensors.items():
                memory[group][name].copy_(tensor, non_blocking=True)
        graph.replay()

    @staticmethod
    def _warm_up(step: Step, inputs: Inputs) -> None:
        """Run the step on a side stream, as the recording does, so that libraries are initialised for it."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step(inputs)
        torch.cuda.current_stream().wait_stream(side)

    @staticmethod
    def _record(step: Step, inputs: Inputs) -> tuple[torch.cuda.CUDAGraph, dict[str, dict[str, Tensor]]]:
        memory = {
            group: {name: tensor.clone() for name, tensor in tensors.items()}
            for group, tensors in inputs.items()
        }
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(memory)
        return graph, memory
