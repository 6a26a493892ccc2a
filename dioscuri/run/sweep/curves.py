"""A plot of all runs' validation curves."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dioscuri.files import replacing
from dioscuri.run.sweep.results import Result

_OVER = {"seconds": "seconds of training", "step": "batches"}
_SHARE_SHOWN = 0.9  # fraction of many values: the first validations are far above the others
_MANY = 20


def draw_curves(results: Sequence[Result], path: Path, requested: str, over: str) -> None:
    """Plot the tag `requested`, or else the families' default tags in separate
    axes, over 'seconds' or 'step'.

    Runs that differ only in their seed share a colour.
    """
    tags = list(dict.fromkeys(tag for result in results if (tag := result.tag(requested))))
    if not tags:
        return
    figure = Figure(figsize=(9.0, 5.0 * len(tags)), dpi=120, layout="constrained")
    for axes, tag in zip(figure.subplots(len(tags), squeeze=False)[:, 0], tags, strict=True):
        _draw(axes, [result for result in results if result.tag(requested) == tag], tag, over)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: Axes, results: Sequence[Result], tag: str, over: str) -> None:
    settings = list(dict.fromkeys(result.setting for result in results))
    values: list[float] = []
    for result in results:
        points = result.curve(tag, over)
        if not points:
            continue
        n = settings.index(result.setting)
        first = next(r for r in results if r.setting == result.setting) is result
        xs, ys = zip(*points, strict=True)
        label = result.setting if first else None
        axes.plot(
            xs, ys, color=f"C{n % 10}", linestyle=("-", "--", ":")[n // 10 % 3], linewidth=1, label=label
        )
        values += ys
    units = {str(result.report["unit"]) for result in results if "unit" in result.report}
    axes.set_xlabel(_OVER[over])
    axes.set_ylabel(f"{tag}, {units.pop()}" if len(units) == 1 else tag)
    if values:
        ordered = sorted(values)
        share = _SHARE_SHOWN if len(ordered) > _MANY else 1.0
        low, high = ordered[0], ordered[int(share * (len(ordered) - 1))]
        margin = 0.05 * (high - low) or 0.05
        axes.set_ylim(low - margin, high + margin)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
