"""The text encoder gives the states that MaskGen and TA-TiTok read from CLIP."""

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from dioscuri.data.text_encoder import TextEncoder
from tests.golden.recorded import cases
from tests.support.tiny_encoder import write_encoder

CLIP = ("one_d_tokens", "clip_text")
KINDS = [CLIP]
LAYERS = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
          "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip


def of_transformers(arrays):
    """Weights of open_clip's text tower under the names of transformers."""
    names = {
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    }
    renamed = {}
    for name, array in arrays.items():
        if "resblocks" in name:
            _, _, index, rest = name.split(".", 3)
            prefix, (layer, leaf) = f"text_model.encoder.layers.{index}", rest.rsplit(".", 1)
            if leaf.startswith("in_proj"):
                for which, part in zip("qkv", np.split(array, 3), strict=True):
                    renamed[f"{prefix}.self_attn.{which}_proj.{leaf.removeprefix('in_proj_')}"] = part
            else:
                renamed[f"{prefix}.{LAYERS[layer]}.{leaf}"] = array
        elif name == "text_projection":
            renamed["text_projection.weight"] = array.T
        else:
            renamed[names.get(name, f"text_model.final_layer_norm.{name.rpartition('.')[2]}")] = array
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in renamed.items()}


@pytest.mark.parametrize("case", cases(CLIP))
def test_states_of_texts(case, tmp_path):
    config = case.about["config"]
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=config["vocab_size"], hidden_size=config["width"], projection_dim=config["embed_dim"],
            intermediate_size=4 * config["width"], num_hidden_layers=config["layers"],
            num_attention_heads=config["heads"], max_position_embeddings=config["context_length"],
            hidden_act=config["act"], eos_token_id=2,
        )
    )  # fmt: skip
    model.load_state_dict(of_transformers(case.weights))
    folder = write_encoder(tmp_path, "clip")
    model.save_pretrained(folder)
    encoder = TextEncoder(
        str(folder), length=config["context_length"], layer=-1, pooled=True, device=torch.device("cpu")
    )
    ids = torch.from_numpy(case.inputs["ids"])
    encoder._ids = lambda _texts: {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    case.close(encoder([""])["text"], "text_guidance")
    case.close(encoder([""], layer=-2)["text"], "penultimate")
    case.close(encoder([""])["pooled"][:, None], "pooled")
