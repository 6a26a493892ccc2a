"""`dioscuri sweep`: train every run of a table of experiments."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dioscuri.cli.parsers import Parser
from dioscuri.errors import UserError, did_you_mean
from dioscuri.places import Places, configuration, here
from dioscuri.run.sweep.curves import draw_curves
from dioscuri.run.sweep.results import collect, summary, write_csv
from dioscuri.run.sweep.slurm import submit
from dioscuri.run.sweep.state import SweepFolder
from dioscuri.run.sweep.table import Run, Table, open_table
from dioscuri.run.sweep.workers import Workers

_USAGE = "TABLE [section.option=value ...] [--list | --results | --run NAME]"
_DESCRIPTION = """\
TABLE has the syntax of a .cfg. [sweep] names the base configurations and the number of runs at a time; every
option of the other sections holds a list of values to try, or one value for all runs. Every combination is a
run of torch_impl or jax_impl. A run that crashes is restarted a few times. When the command is repeated,
finished runs are skipped and all others continue. logs-sweep-<name>/results.csv has one row per run;
curves.png, drawn at the end and with --results, shows all validation scores. Inside a SLURM job, or with
sweep.where=slurm, the runs are submitted. On the first SIGTERM or Ctrl-C, all runs save and stop."""
_EXAMPLE = "dioscuri sweep egs/sweeps/metroplex_photos32.sweep --list"


def main(words: Sequence[str]) -> None:
    """Run a command line. Exits with code 1 if a run failed."""
    sweep(words, here())


def sweep(words: Sequence[str], places: Places) -> None:
    """Run a command line with the programs and folders of `places`."""
    chosen = make_parser().parse_intermixed_args(list(words))
    table = open_table(configuration(chosen.table)[0], chosen.overrides, places)
    folder = SweepFolder(places, table.sweep.name)
    if chosen.list:
        _list(table, folder)
    elif chosen.results:
        _tell(table, folder)
    elif chosen.run is not None:
        _train(table, [_find(table, chosen.run)], folder)
    else:
        todo = [run for run in table.runs if not folder.is_finished(run)]
        _say(f"{len(table.runs)} runs, {len(table.runs) - len(todo)} of them finished")
        if not todo:
            _tell(table, folder)
        elif _submits(table):
            _say(submit(table, chosen.overrides, todo, folder))
        else:
            _train(table, todo, folder)


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("sweep", _USAGE, _DESCRIPTION, _EXAMPLE)
    parser.add_argument("table", type=Path, metavar="TABLE")
    parser.add_argument("overrides", nargs="*", metavar="section.option=value")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list the runs and their progress, train nothing")
    what.add_argument(
        "--results", action="store_true", help="rewrite the table and the picture, train nothing"
    )
    what.add_argument("--run", metavar="NAME", help="train only this run, here")
    return parser


def _submits(table: Table) -> bool:
    where = table.sweep.where
    return where == "slurm" or (where == "auto" and "SLURM_JOB_ID" in os.environ)


def _find(table: Table, name: str) -> Run:
    runs = {run.key: run for run in table.runs}
    if name not in runs:
        raise UserError(f"{table.path} has no run '{name}'{did_you_mean(name, runs)}: see --list")
    return runs[name]


def _train(table: Table, runs: Sequence[Run], folder: SweepFolder) -> None:
    workers = Workers(folder, table.sweep, _say)
    workers.train(runs, lambda: write_csv(collect(table.runs, folder), folder))
    _tell(table, folder)
    if workers.stopped:
        sys.exit(128 + signal.SIGINT)
    if any(folder.state(run).state == "failed" for run in runs):
        sys.exit(1)


def _list(table: Table, folder: SweepFolder) -> None:
    for run in table.runs:
        total = run.hparams.train.total_train_steps
        _say(f"{run.key}: {folder.state(run).state}, {folder.step(run)} of {total} batches")


def _tell(table: Table, folder: SweepFolder) -> None:
    results = collect(table.runs, folder)
    write_csv(results, folder)
    draw_curves(results, folder.path / "curves.png", table.sweep.curve, table.sweep.curve_over)
    for line in summary(results, table.sweep.curve):
        _say(line)
    _say(f"results: {folder.path / 'results.csv'}")


def _say(line: str) -> None:
    print(line, flush=True)
