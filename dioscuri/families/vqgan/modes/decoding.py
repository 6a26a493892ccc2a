"""Decoding: pictures from shards of tokens."""

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data.tokens import TokenSet, open_tokens
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.families.vqgan.modes.encoding import tokenizer_entry, tokens_to_read
from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.files import write_json
from dioscuri.outputs.examples import N_ON_SHEET
from dioscuri.outputs.pictures import in_rows, save_grid, save_picture
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.settings import output_folder
from dioscuri.plans.description import extent


def decode(context: Context, plan: TokenizerPlan, checkpoint: Checkpoint) -> None:
    """Write `decoded/image-<i>.png`, numbered in the order of the shards, and `names.json`,
    the pictures' stable names."""
    options = context.hparams.synthesis
    tokens = open_tokens(tokens_to_read(context))
    for note in tokens.notes:
        context.say(note)
    _check(tokens, plan, tokenizer_entry(context, checkpoint)["sha256"])
    n, size = min(options.n_samples or len(tokens), len(tokens)), options.batch_size
    source = {"path": tokens.name, **tokens.header}
    output = output_folder(context, checkpoint, context.directory.images, "decoded", tokens=source)
    folder, shown = output.path, []
    names: dict[str, str] = {}
    starts = range(0, n, size)
    for start in tracked(starts, "decoding", len(starts), shown=context.writes):
        rows = np.arange(start, min(start + size, n))
        # Pad by repetition, so that only one batch shape is compiled.
        filled = rows[np.arange(size) % len(rows)]
        given = {"tokens": tokens.gather(filled)}
        if tokens.texts is not None and plan.one_d is not None and plan.one_d.text:
            given["text"] = tokens.texts.gather(filled)["text"]
        made: Array = context.engine.run("decode", given, ema=options.load_ema_weights, step=start)["image"][
            : len(rows)
        ]
        if start < N_ON_SHEET:
            shown.append(made)
        for row, picture in zip(rows, made, strict=True):
            names[f"image-{row:04d}"] = tokens.keys[int(row)]
            if context.writes:
                save_picture(folder, f"image-{row:04d}", picture)
    if context.writes:
        write_json(folder / "names.json", names)
        sheet = save_grid(folder / "contact-sheet.png", in_rows(np.concatenate(shown)[:N_ON_SHEET]))
        context.say(f"{n} pictures in {folder}; the first of them: {sheet}")
    output.finish(n)


def _check(tokens: TokenSet, plan: TokenizerPlan, sha256: str) -> None:
    """Raise a `UserError` if the tokens were not made by this tokenizer."""
    given = tokens.grid, tokens.codebook_size
    expected = plan.token_shape, plan.codebook_size
    if given != expected:
        raise UserError(
            f"tokens {tokens.name} are {extent(given[0])} of {given[1]} codes, but this tokenizer "
            f"makes {extent(plan.token_shape)} of {plan.codebook_size}: give tokens that it made"
        )
    maker = tokens.header.get("tokenizer") or {}
    if maker.get("sha256") != sha256:
        raise UserError(
            f"tokens {tokens.name} were made by another tokenizer, {maker.get('weights', 'unknown')} weights "
            f"of the run '{maker.get('run', 'unknown')}' at step {maker.get('step', 'unknown')}: decode them "
            "with that tokenizer, or encode the pictures again"
        )
