"""Published networks that extract features of pictures: the Inception network of FID, DINOv2 and CLIP."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from dioscuri.evaluation.inception_weights import inception_file, read_inception
from torch_impl.models.inception import features, resized
from torch_impl.vision import open_encoder

Extract = Callable[[Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray | None]]


def open_network(name: str, weights: str) -> tuple[Extract, str]:
    """A function from B pictures uint8 (H, W, 3) of any sizes to features (B, D) and logits, if any; and a
    description of the network.

    `weights`: a file, a folder or a model of the hub; if empty, the published ones, downloaded once.
    """
    if name != "inception":
        return open_encoder(name, weights)
    file = Path(weights) if weights else inception_file()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tensors = {key: torch.from_numpy(array).to(device) for key, array in read_inception(file).items()}

    @torch.inference_mode()
    def extract(pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        dtype = tensors["fc.weight"].dtype
        x = [resized(torch.from_numpy(picture[None]).to(device), dtype) for picture in pictures]
        pooled, logits = features(torch.cat(x), tensors)
        return pooled.cpu().numpy(), logits.cpu().numpy()

    return extract, f"Inception-v3 of FID, {file}"
