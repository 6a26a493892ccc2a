"""The smallest text encoders, with random weights, in the file format of published ones."""

from typing import Any

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LENGTH, WIDTH, POOLED = 6, 16, 12
CLIP_LENGTH = 8
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def write_encoder(folder, kind, pooled=POOLED):
    """Write a 'clip' or 't5' encoder for texts of letters and digits; return its folder."""
    torch.manual_seed(0)
    folder = folder / kind
    folder.mkdir(parents=True)
    tokenizer: Any
    config: Any
    model: Any
    if kind == "clip":
        words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
        vocabulary = {word: number for number, word in enumerate(words)}
        tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CLIP_LENGTH)
        config = CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=CLIP_LENGTH,
            projection_dim=pooled,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        model = CLIPTextModelWithProjection(config)
    else:
        words = ["<pad>", "</s>", "<unk>", "\u2581", *LETTERS]
        tokenizer = T5Tokenizer(vocab=[(word, -1.0) for word in words], extra_ids=0)
        config = T5Config(vocab_size=len(words), d_model=WIDTH, d_kv=8, d_ff=24, num_layers=3, num_heads=2)
        model = T5EncoderModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
