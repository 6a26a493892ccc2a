"""Options of a call that the demo shows as controls: which, their defaults and their ranges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dioscuri.demo.exhibit import Exhibit

MOST_STEPS = 512
TOKENS = (
    "steps",
    "min_steps",
    "guidance_scale",
    "temperature",
    "sampler",
    "sample_proportion",
    "top_k",
    "top_p",
)
"""Options of token models, those of them that the family has."""
VAES = ("guidance_scale", "temperature", "output", "output_temperature")


@dataclass(frozen=True)
class Control:
    """An option: a number, a whole number or one of `choices`. A `default` of None leaves it to the model."""

    name: str
    default: Any
    choices: Sequence[str] = ()
    whole: bool = False
    low: float | None = None
    high: float | None = None


def controls(exhibit: Exhibit) -> tuple[Control, ...]:
    """Options of `generate`, with the defaults of the model's run."""
    model, synthesis = exhibit.model, exhibit.model.hparams.synthesis
    declared = {field.name: field.metadata for field in fields(synthesis)}
    known = getattr(model, "sampling_options", None)
    names = VAES if known is None else tuple(name for name in TOKENS if name in known)
    made = []
    for name in names:
        if name == "guidance_scale" and not (exhibit.num_classes or exhibit.reads_text):
            continue
        value = 1.0 if known is None and name == "temperature" else getattr(synthesis, name)
        about: Mapping[str, Any] = declared.get(name, {})
        made.append(
            Control(
                name,
                None if isinstance(value, tuple) else value,
                tuple(about.get("choices") or ()),
                isinstance(value[0] if isinstance(value, tuple) and value else value, int),
                about.get("low", 0),
                min(about.get("high") or MOST_STEPS, MOST_STEPS) if "steps" in name else about.get("high"),
            )
        )
    return tuple(made)


def given(shown: Sequence[Control], values: Sequence[Any]) -> dict[str, Any]:
    """Options by name from the values of the controls; what is empty is left to the model."""
    return {
        control.name: int(value) if control.whole else value
        for control, value in zip(shown, values, strict=True)
        if value is not None and value != ""
    }
