"""Pictures (uint8 NHWC) and their tokens in numpy: sources, fixed splits and one pipeline."""

from dioscuri.data.classes import Examples
from dioscuri.data.picture_set import PictureSet
from dioscuri.data.sources import DataSets, open_datasets
from dioscuri.data.tokens import TokenSet

__all__ = ["DataSets", "Examples", "PictureSet", "TokenSet", "open_datasets"]
