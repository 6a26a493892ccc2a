"""Options of the sources that read image files."""

from dataclasses import dataclass

from dioscuri.hparams.schema import option

FOLDERS = ("celebA", "celebAHQ", "ffhq", "custom")
"""Sources that are folders of image files."""
EMBEDDED = ("digits", "photos", "film")
"""Sources that come with a package and read no files of the user's."""
FILES = (*FOLDERS, "glob", "webdataset")
"""Sources of image files, in folders or in tar files."""


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
        needs=("dataset_source", FILES),
        doc="resize the shorter side to target_res, and cut training pictures out at random places, others "
        "out of the middle",
    )
    min_size: int = option(
        0,
        low=0,
        high=2**20,
        needs=("dataset_source", FILES),
        doc="leave out pictures whose original is narrower or lower than this many pixels",
    )
    max_pwatermark: float | None = option(
        None,
        low=0,
        high=1,
        needs=("dataset_source", FILES),
        doc="leave out pictures whose probability of a watermark is higher or unknown",
    )
    min_aesthetic_score: float | None = option(
        None,
        low=-100,
        high=100,
        needs=("dataset_source", FILES),
        doc="leave out pictures whose aesthetic score is lower or unknown",
    )
    max_pnsfw: float | None = option(
        None,
        low=0,
        high=1,
        needs=("dataset_source", FILES),
        doc="leave out pictures whose probability of being unsafe for work is higher or unknown",
    )
    require_marked_as_ok_by_spawning: bool = option(
        False,
        needs=("dataset_source", FILES),
        doc="leave out pictures whose 'is_spawning' (opted out) is true or unknown",
    )
    require_marked_as_not_getty: bool = option(
        False,
        needs=("dataset_source", FILES),
        doc="leave out pictures whose 'is_getty' is true or unknown",
    )
    skip_corrupt: bool = option(
        False,
        needs=("dataset_source", (*FOLDERS, "glob", "webdataset", "tfrecords", "wav", "frames")),
        doc="skip unreadable image files instead of stopping",
    )
