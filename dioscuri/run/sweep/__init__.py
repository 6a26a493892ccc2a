"""Tables of experiments: one run for every combination of their values, trained side by side, gone on with
after a crash or a stop, and told in one table of results and one picture."""
