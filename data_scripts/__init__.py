"""Preparation of data sets: download, check, unpack, split. Run by `download_and_preprocess.sh`."""
