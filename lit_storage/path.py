"""Where pickles of an older version find `Path`, which lies in `lit_storage.paths.path`."""

from lit_storage.paths.path import Path, _unpickle

__all__ = ["Path", "_unpickle"]
