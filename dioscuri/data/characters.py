"""Plain text as tokens: a space is 0, a to z are 1 to 26 (text8, Mahoney 2006). Capitals become small
letters, any other character a space, and several spaces one.

The first 90 % are training, the next 5 % validation, the rest test. Example i is the `data.sequence_length`
characters from i on, padded with spaces after the end.
"""

import string
from typing import Any

import numpy as np

from dioscuri.data.options import Split, data_path
from dioscuri.data.tokens import TokenSet
from dioscuri.errors import UserError
from dioscuri.files import plain_bytes

CODES = 27
SHARES: dict[Split, tuple[float, float]] = {
    "train": (0.0, 0.9),
    "validation": (0.9, 0.95),
    "test": (0.95, 1.0),
}
_LETTERS = np.zeros(256, np.uint8)
for _number, _letter in enumerate(string.ascii_lowercase, start=1):
    _LETTERS[[ord(_letter), ord(_letter.upper())]] = _number


def encode(text: bytes) -> np.ndarray:
    """Tokens uint8 (N,) of a text."""
    tokens = _LETTERS[np.frombuffer(text, np.uint8)]
    repeated = (tokens[1:] == 0) & (tokens[:-1] == 0)
    return tokens[np.concatenate([[True], ~repeated])] if len(tokens) else tokens


def decode(tokens: np.ndarray) -> str:
    """The text of tokens (L,)."""
    return "".join((" " + string.ascii_lowercase)[int(token)] for token in tokens)


def open_text(options: Any, split: Split) -> TokenSet:
    """Open a split of the file `data.train_data_path`, from which all splits come."""
    path, length = data_path(options.data, "train"), options.data.sequence_length
    for name in ("val_data_path", "synthesis_data_path"):
        if given := getattr(options.data, name):
            raise UserError(
                f"[data] {name} is '{given}', but all splits of a text come from train_data_path: set it to "
                "''"
            )
    if not length:
        raise UserError("[data] sequence_length is 0: set it to the characters per example, such as 32")
    try:
        tokens = encode(plain_bytes(path))
    except OSError as error:
        raise UserError(f"[data] train_data_path '{path}' cannot be read: {error.strerror}") from error
    first, last = (int(share * len(tokens)) for share in SHARES[split])
    if last - first < 1:
        raise UserError(f"[data] train_data_path '{path}' holds {len(tokens)} characters: give a longer text")
    padded = np.concatenate([tokens[first:last], np.zeros(length, np.uint8)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)
    return TokenSet(
        name=f"{path.name} {split}",
        grid=(1, length),
        codebook_size=CODES,
        header={},
        keys=range(last - first),  # type: ignore[arg-type] # numbers are the names
        labels=None,
        texts=None,
        read=lambda indices: windows[indices][:, None],
    )
