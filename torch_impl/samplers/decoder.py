"""What all token samplers share: the network under guidance, and the loop's results."""

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
State = tuple[Any, ...]
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
class Predictor:
    """A network that predicts tokens, and the condition under which it does.

    `null` is what stands for no condition: under guidance the network gets both in one call. `prepare`
    computes once what the network needs of the condition in all steps (`model.prepare`). `critic` serves the
    scores sampler.
    """

    network: Network
    codebook_size: int
    mask_id: int
    condition: Condition
    null: Condition | None = None
    critic: Critic | None = None
    prepare: Callable[[Condition], Condition] | None = None


@dataclass(frozen=True)
class Decoder:
    """A predictor with all numbers of a sampler.

    `condition` is prepared, and doubled if `guided`: first the given one, then what stands for none. The
    critic gets `plain`, the condition before it was prepared. `steps`, `noise` and `counts` hold the numbers,
    the noise and the largest number of predicted positions of every step.
    """

    predictor: Predictor
    options: Sampling
    steps: Steps
    noise: StepNoise
    counts: tuple[int, ...]
    condition: Condition
    plain: Condition
    guided: bool

    @property
    def mask_id(self) -> int:
        """The token that stands for an unknown one."""
        return self.predictor.mask_id

    @property
    def n_outputs(self) -> int:
        """Number of logits that are sampled from."""
        return self.predictor.codebook_size + self.options.legacy_mask_token

    def predict(
        self,
        ids: Tensor,
        to_predict: Tensor,
        k: int,
        embedding: Tensor | None,
        *,
        temperature: Tensor | None = None,
        resample: bool = False,
    ) -> Drawn:
        """Sample the positions `to_predict` of ids (B, L) in step k, at most `counts[k]` of them.

        `temperature` divides the logits once they are filtered. `resample`: the other tokens are sampled too,
        as far as the network's logits are there. `embedding` conditions the network on its last pass; both
        halves get that of the given condition.
        """
        B, L = ids.shape
        n, condition = self.counts[k], self.condition
        positions = first_positions(to_predict, n) if n < L else None
        if embedding is not None:
            condition = {**condition, "self": self._doubled(embedding)}
        doubled = (self._doubled(ids), condition)
        if positions is None:
            logits, aux = self.predictor.network(*doubled, outputs=self.n_outputs)
            current, to_predict_here = ids, to_predict
        else:
            logits, aux = self.predictor.network(
                *doubled, positions=self._doubled(positions), outputs=self.n_outputs
            )
            current, to_predict_here = (torch.gather(x, 1, positions) for x in (ids, to_predict))
        noise = self.noise(k, positions)
        sampled, logits = self._choose(logits, noise["tokens"], k, temperature)
        tokens = sampled if resample else torch.where(to_predict_here, sampled, current)
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
        allowed = filtered(logits, self.options)
        return draw_tokens(allowed if temperature is None else allowed / temperature, noise), logits

    def critic_scores(self, ids: Tensor, factor: Tensor) -> Tensor:
        """The critic's guided logits (B, L)."""
        assert self.predictor.critic is not None
        scores = at_least_float32(self.predictor.critic(self._doubled(ids), self.plain))
        return guide(scores, factor) if self.guided else scores

    def _doubled(self, x: Tensor) -> Tensor:
        return torch.cat([x, x]) if self.guided else x


def make_decoder(
    predictor: Predictor, options: Sampling, steps: Steps, noise: StepNoise, counts: tuple[int, ...]
) -> Decoder:
    """Guidance is on where the predictor has a `null` condition and the options ask for it."""
    null = predictor.null if options.guidance_scale > 0 else None
    plain = dict(predictor.condition) if null is None else doubled_condition(predictor.condition, null)
    prepared = plain if predictor.prepare is None else predictor.prepare(plain)
    return Decoder(predictor, options, steps, noise, counts, prepared, plain, null is not None)


def doubled_condition(condition: Condition, null: Condition) -> dict[str, Tensor]:
    """Conditions (2B, ...): the given ones, then those of `null`, of B rows or one; what is not in `null` is
    repeated."""
    doubled = {}
    for name, value in condition.items():
        without = null[name].to(value.dtype).expand(value.shape) if name in null else value
        doubled[name] = torch.cat([value, without])
    return doubled


def first_positions(to_predict: Tensor, n: int) -> Tensor:
    """n positions (B, n) of each row of `to_predict` (B, L): the true ones first, each kind in order."""
    return torch.argsort(to_predict.to(torch.uint8), dim=1, descending=True, stable=True)[:, :n]


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
