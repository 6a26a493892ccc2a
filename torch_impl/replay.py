"""A device step recorded once as a CUDA graph and replayed: small networks are bound by launching kernels."""

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

WARM_UP = 3
"""Calls that run as they are before the recording: compilation, cuDNN's trials, libraries' workspaces."""

Inputs = Mapping[str, Mapping[str, Tensor]]
"""Groups of named tensors."""
Step = Callable[[Inputs], None]


class Replay:
    """Runs steps that read the given tensors and otherwise change state in place.

    With `enabled`, each step (told apart by `key`) is recorded after `WARM_UP` calls. A recording reads its
    inputs from fixed memory, into which each call copies.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.calls: dict[Hashable, int] = {}
        self.recordings: dict[Hashable, tuple[torch.cuda.CUDAGraph, dict[str, dict[str, Tensor]]]] = {}

    def __call__(self, step: Step, inputs: Inputs, key: Hashable) -> None:
        """Run the step on these inputs."""
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
        """Recording happens on a side stream, so the libraries must have met one."""
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
