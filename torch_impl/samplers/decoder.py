"""What every sampler of tokens shares: the network under guidance, and the loop's results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dioscuri.families.maskgit.decoding import Steps
from dioscuri.families.token_models.masking_options import Sampling
from torch_impl.layers.precision import at_least_float32
from torch_impl.samplers.choice import draw_tokens, filtered, guide, log_probability
from torch_impl.samplers.noise import StepNoise

Condition = Mapping[str, Tensor]
Network = Any
"""A model, or what behaves like one: called with ids (B, L) and a condition it gives logits (B, L, V) and
intermediates; with `positions` and `outputs` those logits alone."""
Critic = Callable[[Tensor, Condition], Tensor]
"""(ids (B, L), condition) -> logits (B, L), high where a token looks wrong."""
State = tuple[Tensor | None, ...]
"""What a sampler carries from step to step."""


class Sampled(NamedTuple):
    """`tokens` (B, L); of every step `inputs` (T, B, L), which the network got, and `drawn` (T, B, L), its
    guess of the whole."""

    tokens: Tensor
    inputs: Tensor
    drawn: Tensor


class Drawn(NamedTuple):
    """`tokens` (B, L), `log_p` (B, L), their log-probabilities where they were drawn, the step's `noise`, and
    the embedding for self-conditioning, where there is one."""

    tokens: Tensor
    log_p: Tensor
    noise: Mapping[str, Tensor]
    embedding: Tensor | None


@dataclass(frozen=True)
class Decoder:
    """A network and its condition, doubled if `guided`: first the given ones, then those that stand for none.

    The critic gets `plain`, the condition before the network prepared it. `steps`, `noise` and `needed` are
    the numbers, the noise and the positions that are drawn of every step.
    """

    network: Network
    options: Sampling
    codebook_size: int
    mask_id: int
    condition: Condition
    plain: Condition
    guided: bool
    critic: Critic | None
    steps: Steps
    noise: StepNoise
    needed: tuple[int, ...]

    @property
    def n_outputs(self) -> int:
        """Logits that are drawn from."""
        return self.codebook_size + self.options.legacy_mask_token

    def draw(
        self,
        ids: Tensor,
        wanted: Tensor,
        k: int,
        embedding: Tensor | None,
        *,
        temperature: Tensor | None = None,
        anew: bool = False,
    ) -> Drawn:
        """Draw those of ids (B, L) that are `wanted` in step k, at most `needed[k]`, under guidance.

        `temperature` divides the logits once they are filtered. `anew`: tokens that are not wanted are drawn,
        too, as far as the network's logits are there. `embedding` conditions the network on its last pass;
        both halves get that of the given condition.
        """
        B, L = ids.shape
        n, condition = self.needed[k], self.condition
        positions = first_positions(wanted, n) if n < L else None
        if embedding is not None:
            condition = {**condition, "self": self._doubled(embedding)}
        doubled = (self._doubled(ids), condition)
        if positions is None:
            logits, aux = self.network(*doubled, outputs=self.n_outputs)
            own, wanted_here = ids, wanted
        else:
            logits, aux = self.network(*doubled, positions=self._doubled(positions), outputs=self.n_outputs)
            own, wanted_here = (torch.gather(x, 1, positions) for x in (ids, wanted))
        noise = self.noise(k, positions)
        fresh, logits = self._choose(logits, noise["tokens"], k, temperature)
        tokens = fresh if anew else torch.where(wanted_here, fresh, own)
        log_p = log_probability(logits, tokens)
        if positions is not None:
            tokens = ids.scatter(1, positions, tokens)
            log_p = log_p.new_zeros(B, L).scatter(1, positions, log_p)
        return Drawn(
            tokens, log_p, noise, None if embedding is None else aux["embed"][:B].to(embedding.dtype)
        )

    def _choose(
        self, logits: Tensor, noise: Tensor, k: int, temperature: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, n) of the network's logits, and guided logits (B, n, K) in at least float32."""
        logits = at_least_float32(logits)
        logits = guide(logits, self.steps.guidance[k]) if self.guided else logits
        logits = logits * self.steps.logit_scale[k]
        kept = filtered(logits, self.options)
        return draw_tokens(kept if temperature is None else kept / temperature, noise), logits

    def critic_scores(self, ids: Tensor, factor: Tensor) -> Tensor:
        """The critic's guided logits (B, L)."""
        assert self.critic is not None
        scores = at_least_float32(self.critic(self._doubled(ids), self.plain))
        return guide(scores, factor) if self.guided else scores

    def _doubled(self, x: Tensor) -> Tensor:
        return torch.cat([x, x]) if self.guided else x


def make_decoder(
    network: Network,
    options: Sampling,
    codebook_size: int,
    mask_id: int,
    condition: Condition,
    null: Condition | None,
    critic: Critic | None,
    prepare: Callable[[Condition], Condition] | None,
    steps: Steps,
    noise: StepNoise,
    needed: tuple[int, ...],
) -> Decoder:
    """Guidance is on where `null` is given and the options ask for it."""
    guided = null is not None and options.guidance_scale > 0
    plain = doubled_condition(condition, null) if null is not None and guided else dict(condition)
    prepared = plain if prepare is None else prepare(plain)
    return Decoder(
        network, options, codebook_size, mask_id, prepared, plain, guided, critic, steps, noise, needed
    )


def doubled_condition(condition: Condition, null: Condition) -> dict[str, Tensor]:
    """Conditions (2B, ...): the given ones, then those of `null`, of B rows or one; what is not in `null` is
    repeated."""
    doubled = {}
    for name, value in condition.items():
        without = null[name].to(value.dtype).expand(value.shape) if name in null else value
        doubled[name] = torch.cat([value, without])
    return doubled


def first_positions(wanted: Tensor, n: int) -> Tensor:
    """n positions (B, n) of each row of `wanted` (B, L), the wanted ones first, each kind in order."""
    return torch.argsort(wanted.to(torch.uint8), dim=1, descending=True, stable=True)[:, :n]


def steps_beside(steps: Steps, ids: Tensor) -> Steps:
    """The numbers as tensors where the ids are."""
    return Steps(*[torch.as_tensor(value, device=ids.device) for value in steps])


def run_steps(
    step: Callable[[int, State], tuple[State, Tensor, Tensor]], state: State, first: int, last: int
) -> tuple[State, Tensor, Tensor]:
    """Run `step(k, state) -> (state, inputs, drawn)` for k from `first` to below `last`; the last state, and
    what all steps got and drew, (T, B, L)."""
    inputs, drawn = [], []
    for k in range(first, last):
        state, got, guess = step(k, state)
        inputs.append(got)
        drawn.append(guess)
    return state, torch.stack(inputs), torch.stack(drawn)
