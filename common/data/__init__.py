"""Pictures for both twins, uint8 NHWC in numpy: sources, fixed splits and one Grain pipeline."""

from common.data.picture_set import PictureSet
from common.data.sources import DataSets, open_datasets

__all__ = ["DataSets", "PictureSet", "open_datasets"]
