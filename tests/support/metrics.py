"""The numbers that a run logged."""

import json


def logged(context, split="train"):
    """The lines of a split in metrics.jsonl."""
    lines = [json.loads(line) for line in context.directory.metrics.read_text().splitlines()]
    return [line for line in lines if line["split"] == split]
