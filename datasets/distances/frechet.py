"""Fréchet distance of two sets of features: FVD, FAD, FD-PANNs, FD-PaSST and FD-VGG are this number on different networks.

    |m₁ − m₂|² + tr S₁ + tr S₂ − 2 tr (S₁ S₂)^½,  S with n − 1

The published tools take a general matrix square root (scipy) or singular values in float32. The trace needs neither: it is the
sum of the singular values of A Bᵀ for any A, B with S₁ = AᵀA and S₂ = BᵀB. With fewer rows than dimensions A and B are the
centred features; otherwise A is a Cholesky factor, and the squared singular values are the eigenvalues of S₁ S₂.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.linalg import lapack

from avpref.errors import InputError

Features = NDArray[np.floating]
FloatArray = NDArray[np.float64]
FEWEST_ROWS = 2
LOWEST_EIGENVALUE = 1e-10
"""As in the code of JavisBench."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean [D] and covariance [D, D] of a set of features, and the centred rows over √(n − 1) where they are fewer than D."""

    mean: FloatArray
    covariance: FloatArray
    rows: FloatArray | None

    @property
    def total_variance(self) -> float:
        """The trace of the covariance."""
        return float(np.trace(self.covariance))


def moments(features: Features) -> Moments:
    """Moments of features [N, D], in float64. Raises InputError for fewer than two rows, and for NaN or infinite values."""
    values = _of_rows(np.asarray(features))
    mean = values.mean(0, dtype=np.float64)
    if not np.isfinite(mean).all():
        _require_finite(values)
    centred, divisor = np.subtract(values, mean, dtype=np.float64), len(values) - 1
    covariance = centred.T @ centred
    covariance /= divisor
    return Moments(mean, covariance, centred / np.sqrt(divisor) if len(centred) < centred.shape[1] else None)


def frechet_distance(first: Moments, second: Moments) -> float:
    """The distance; rounding can make it slightly negative for equal sets. Raises InputError for different dimensions."""
    if first.mean.shape != second.mean.shape:
        found = f"features of {len(first.mean)} and of {len(second.mean)} values"
        raise InputError(found, "features of one network", "compute both sets with the same network")
    shift = first.mean - second.mean
    overlap = _sum_of_roots(first, second)
    return float(shift @ shift + first.total_variance + second.total_variance - 2 * overlap)


def checked(features: Features) -> FloatArray:
    """Features [N, D] as float64. Raises InputError for fewer than two rows, another shape, NaN or infinite values."""
    values = _of_rows(np.asarray(features, dtype=np.float64))
    _require_finite(values)
    return values


def _of_rows(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim != 2 or len(values) < FEWEST_ROWS:
        found = f"features of shape {list(values.shape)}"
        raise InputError(found, f"at least {FEWEST_ROWS} rows of one length", "evaluate more clips")
    return values


def _require_finite(values: NDArray[Any]) -> None:
    if broken := int((~np.isfinite(values).all(1)).sum()):
        found = f"{broken} of {len(values)} rows of features with NaN or infinite values"
        raise InputError(found, "finite features", "leave those clips out, or compute their features again")


def _sum_of_roots(first: Moments, second: Moments) -> float:
    """tr (S₁ S₂)^½."""
    if first.rows is not None and second.rows is not None:
        return _sum_of_root(linalg.svdvals(first.rows @ second.rows.T) ** 2)
    if first.rows is not None or second.rows is not None:
        rows, covariance = (
            (first.rows, second.covariance) if first.rows is not None else (second.rows, first.covariance)
        )
        assert rows is not None
        return _sum_of_root_eigenvalues(rows @ covariance @ rows.T)
    try:
        return _sum_of_root(_eigenvalues_of_product(first.covariance, second.covariance))
    except linalg.LinAlgError:  # a feature without variance, or features that depend on each other
        eigenvalues, vectors = linalg.eigh(second.covariance)
        factor = np.sqrt(eigenvalues.clip(min=0))[:, None] * vectors.T
        return _sum_of_root_eigenvalues(factor @ first.covariance @ factor.T)


def _eigenvalues_of_product(first: FloatArray, second: FloatArray) -> FloatArray:
    """The eigenvalues of S₁ S₂, which are those of Lᵀ S₁ L for S₂ = L Lᵀ. Raises LinAlgError where S₂ has no full rank.

    The steps of LAPACK's generalised problem one by one: the driver for eigenvalues alone (``syevd``) is faster than that of ``sygvd``.
    """
    factor = linalg.cholesky(second, lower=True, check_finite=False)
    product, info = lapack.dsygst(first, factor, itype=2, lower=1)
    if info:
        raise linalg.LinAlgError(f"sygst: {info}")
    return linalg.eigvalsh(product, lower=True, driver="evd", check_finite=False, overwrite_a=True)


def _sum_of_root_eigenvalues(product: FloatArray) -> float:
    return _sum_of_root(linalg.eigvalsh((product + product.T) / 2))


def _sum_of_root(eigenvalues: FloatArray) -> float:
    """Σ √λ; values below :data:`LOWEST_EIGENVALUE` are rounding and count as they are, so that the root does not raise them."""
    kept = eigenvalues.clip(min=0)
    return float(np.where(kept < LOWEST_EIGENVALUE, kept, np.sqrt(kept)).sum())
