"""Pictures, uint8 NHWC, and their tokens, in numpy: sources, fixed splits and one pipeline."""

from common.data.picture_set import PictureSet
from common.data.sources import DataSets, Examples, open_datasets
from common.data.tokens import TokenSet

__all__ = ["DataSets", "Examples", "PictureSet", "TokenSet", "open_datasets"]
