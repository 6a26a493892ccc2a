"""The checkpoint format of both twins, and readers of the original programs' files."""
