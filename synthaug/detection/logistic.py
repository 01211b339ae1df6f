"""Penalised logistic regression toward a prior, with present and absent films weighed equally.

    w = argmin  1/C · |w - w₀|²/2 + Σ sᵢ log(1 + exp(-yᵢ (w·xᵢ + b)))

y is ±1; s weighs present and absent films equally, mean 1; b is not penalised. w₀ = 0, or the solution of an earlier stage: the
prior of Chelba & Acero (2006), the linear form of starting from other weights.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, strength: float, prior: np.ndarray | None = None
) -> np.ndarray:
    """The weights (d + 1,), the intercept last, of the module's docstring.

    Arguments: `features` (n, d) standardised, `labels` (n,) of 1 and 0, `strength` C, `prior` w₀ (d + 1,), whose last entry
    is only where the search for b starts.
    """
    y = np.where(labels == 1, 1.0, -1.0)
    weight = len(y) / (2 * np.where(y > 0, (y > 0).sum(), (y < 0).sum()))
    x = features.astype(np.float64)
    start = np.zeros(x.shape[1] + 1) if prior is None else prior.astype(np.float64)
    # w - w₀ lies in the span of the films: with fewer films than features, that span is all that need be searched.
    span = np.linalg.qr(x.T)[0] if len(x) < x.shape[1] else None
    inside, offset = x if span is None else x @ span, x @ start[:-1]

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        margin = y * (offset + inside @ v[:-1] + v[-1])
        slope = -weight * y * expit(-margin)
        value = v[:-1] @ v[:-1] / (2 * strength) + weight @ np.logaddexp(0, -margin)
        return float(value), np.append(inside.T @ slope + v[:-1] / strength, slope.sum())

    first = np.append(np.zeros(inside.shape[1]), start[-1])
    v = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-12}).x
    away = v[:-1] if span is None else span @ v[:-1]
    return np.append(start[:-1] + away, v[-1])
