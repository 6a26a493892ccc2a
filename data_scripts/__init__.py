"""Preparation of data sets: download, check, unpack, split. Run through `download_and_preprocess.sh`."""
