"""Readers of real data sets: scikit-learn's handwritten digits and MNIST in its original IDX format.

Nothing is downloaded; each reader says where it looked.
"""

from __future__ import annotations

from latentgeo.datasets.readers import Dataset, DatasetNotFoundError, load_digits, load_mnist

__all__ = ["Dataset", "DatasetNotFoundError", "load_digits", "load_mnist"]
