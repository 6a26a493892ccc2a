"""The one checkpoint format of both twins, and importers of the original programs' checkpoints."""
