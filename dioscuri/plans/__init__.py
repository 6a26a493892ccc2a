"""Layer plans: what layers exist, computed once from the options, read by both twins."""
