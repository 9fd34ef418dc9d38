"""Data whose columns are read once; imported with the first data, as it imports datasets."""

from __future__ import annotations

import copy
from typing import Any

from datasets import Dataset, DatasetDict


class EagerColumns(Dataset):  # type: ignore[misc]
    """A data set that gives a column as a list, kept for as long as its rows are the same.

    mteb's evaluators index a column row by row and hand it to scikit-learn; a lazy column decodes
    every row anew each time, which costs more than all the classifiers.
    """

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        kept = self.__dict__.setdefault("_kept_columns", {})
        name = (self._fingerprint, key)  # copies share the dictionary, changed ones get a new print
        if name not in kept:
            kept[name] = list(super().__getitem__(key))
        return kept[name]


def eager(data: Any) -> Any:
    """The same data with eager columns; what is no data set is returned as it is."""
    if isinstance(data, DatasetDict):
        return DatasetDict({name: eager(part) for name, part in data.items()})
    if isinstance(data, dict):
        return {name: eager(part) for name, part in data.items()}
    if type(data) is not Dataset:
        return data
    data = copy.copy(data)
    data.__class__ = EagerColumns
    return data
