"""An index of images in one file: the front door, ranking, synchronising with folders, storage and
checks."""
