"""Options of the sources that read image files."""

from dataclasses import dataclass

from dioscuri.hparams.schema import option

FOLDERS = ("celebA", "celebAHQ", "ffhq", "custom")
"""Sources that are folders of image files."""


@dataclass(frozen=True, kw_only=True)
class PictureFiles:
    """Of `[data]`: how image files are read."""

    fast_jpeg: bool = option(
        False,
        needs=("dataset_source", (*FOLDERS, "webdataset", "frames")),
        doc="image files that are resized whole or cropped ('custom', 'webdataset', 'frames', ...): decode "
        "JPEGs at 1/2, 1/4 or 1/8 of their size where that is at least twice target_res; up to four times "
        "faster, but pixels differ by a few levels, 42 to 50 dB",
    )
    random_crop: bool = option(
        False,
        needs=("dataset_source", (*FOLDERS, "glob", "webdataset")),
        doc="resize the shorter side to target_res, and cut training pictures out at random places, others "
        "out of the middle",
    )
    skip_corrupt: bool = option(
        False,
        needs=("dataset_source", (*FOLDERS, "glob", "webdataset", "tfrecords", "wav", "frames")),
        doc="skip unreadable image files instead of stopping",
    )
