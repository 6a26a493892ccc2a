"""Picture encoders of the library transformers: DINOv2 (Oquab et al. 2023) and CLIP (Radford et al. 2021)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from dioscuri.errors import UserError
from dioscuri.hub import local_folder

PUBLISHED = {"dinov2": "facebook/dinov2-large", "clip": "openai/clip-vit-large-patch14"}
"""Default models of the hub."""
NORMS = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and standard deviation of a pixel's channels."""
SIDE = 224


Extract = Callable[[Sequence[np.ndarray]], tuple[np.ndarray, None]]


def open_encoder(name: str, weights: str) -> tuple[Extract, str]:
    """A function from B pictures uint8 (H, W, 3) of any sizes to features (B, D), float32: DINOv2's class
    token after the last norm, or CLIP's projected embedding. Pictures are resized bicubically.

    `weights`: a folder with `config.json` and safetensors, or a model of the hub.
    """
    where = weights or PUBLISHED[name]
    model = _load(name, where)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = model.config.image_size if name == "clip" else SIDE
    mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in NORMS[name])
    model = model.eval().to(device)

    @torch.inference_mode()
    def extract(pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, None]:
        resized = np.stack([_resized(picture, side) for picture in pictures])
        pixels = torch.from_numpy(resized).to(device).permute(0, 3, 1, 2) / 255
        made = model(pixel_values=(pixels - mean) / deviation)
        features = made.image_embeds if name == "clip" else made.pooler_output
        return features.float().cpu().numpy(), None

    return extract, f"{name}, {where}"


def _load(name: str, where: str) -> Any:
    import transformers  # noqa: PLC0415 - takes seconds, and only these networks need it

    classes: dict[str, Any] = {
        "dinov2": transformers.Dinov2Model,
        "clip": transformers.CLIPVisionModelWithProjection,
    }
    kinds = {"dinov2": ("dinov2",), "clip": ("clip", "clip_vision_model")}
    try:
        folder = local_folder(where)
        config = transformers.AutoConfig.from_pretrained(folder)
        if config.model_type not in kinds[name]:
            raise UserError(f"--weights {where} has type '{config.model_type}', not {name}")
        return classes[name].from_pretrained(folder, use_safetensors=True)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"--weights {where} cannot be opened ({reason}): give a folder with config.json and "
            "model.safetensors, or a hub id"
        ) from error


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), np.float32)
