"""Sweeps: one run for every combination of a table's values, trained in parallel, resumed after a crash or a
stop, with one table of results and one plot."""
