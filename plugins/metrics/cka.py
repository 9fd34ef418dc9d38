"""Linear CKA of layers, debiased: how alike the texts lie in each two of them."""

from __future__ import annotations

from lrd_harness.capture.covariance import debiased_cka

__all__ = ["debiased_cka"]
