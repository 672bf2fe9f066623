"""The formulas once more, in slow and literal numpy: what the package is compared with."""

import numpy as np
import scipy.linalg


def gram(features: np.ndarray) -> np.ndarray:
    """G_ij = sum_k F_ik F_jk, Gatys et al. 2015, equation (3)."""
    height, width, channels = features.shape
    result = np.zeros((channels, channels))
    for i in range(channels):
        for j in range(channels):
            for y in range(height):
                for x in range(width):
                    result[i, j] += features[y, x, i] * features[y, x, j]
    return result


def content_loss(features: np.ndarray, target: np.ndarray) -> float:
    """1/2 sum (F - P)^2, equation (1)."""
    return 0.5 * float(np.sum((features - target) ** 2))


def content_gradient(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """F - P where F > 0, else 0, equation (2): the gradient at the input of the ReLU."""
    return np.where(features > 0, features - target, 0)


def style_loss(features: np.ndarray, target_gram: np.ndarray) -> float:
    """E_l = 1 / (4 N^2 M^2) sum (G - A)^2, equation (4)."""
    height, width, channels = features.shape
    difference = gram(features) - target_gram
    return float(np.sum(difference**2)) / (4 * channels**2 * (height * width) ** 2)


def style_gradient(features: np.ndarray, target_gram: np.ndarray) -> np.ndarray:
    """1 / (N^2 M^2) (F^T (G - A))_ji where F > 0, else 0, equation (6)."""
    height, width, channels = features.shape
    positions = features.reshape(-1, channels)
    product = positions @ (gram(features) - target_gram)
    product = product / (channels**2 * (height * width) ** 2)
    return np.where(features > 0, product.reshape(features.shape), 0)


def _steps(image: np.ndarray) -> tuple[list[float], list[float]]:
    """Every difference to the pixel above, and to the pixel on the left."""
    height, width, channels = image.shape
    down = [
        image[y + 1, x, c] - image[y, x, c]
        for y in range(height - 1)
        for x in range(width)
        for c in range(channels)
    ]
    right = [
        image[y, x + 1, c] - image[y, x, c]
        for y in range(height)
        for x in range(width - 1)
        for c in range(channels)
    ]
    return down, right


def _mean_squares(image: np.ndarray) -> float:
    down, right = _steps(image)
    return float(np.mean(np.square(down)) + np.mean(np.square(right)))


TV_LOSSES = {
    "mean_squares": _mean_squares,
    # jcjohnson/neural-style
    "half_sum_squares": lambda image: 0.5 * sum(step**2 for part in _steps(image) for step in part),
    # ProGamerGov/neural-style-pt, gordicaleksa
    "sum_absolute": lambda image: sum(abs(step) for part in _steps(image) for step in part),
}

CONTENT_LOSSES = {
    "relative": lambda f, p: np.sum((f - p) ** 2) / np.sum(p**2),
    # jcjohnson/neural-style, gordicaleksa: torch's MSELoss
    "mean": lambda f, p: np.mean((f - p) ** 2),
    # NeuArt
    "sum": lambda f, p: np.sum((f - p) ** 2),
    # Gatys et al. 2015, the capstone report, the slides
    "gatys": content_loss,
    # Premamayudu et al.: 1 / (4 nH nW nC)
    "quarter_mean": lambda f, p: np.sum((f - p) ** 2) / (4 * f.shape[0] * f.shape[1] * f.shape[2]),
}

STYLE_LOSSES = {
    "relative": lambda f, a: np.sum((gram(f) - a) ** 2) / np.sum(a**2),
    # leongatys/PytorchNeuralStyleTransfer: MSELoss of G / M
    "mean": lambda f, a: np.mean(((gram(f) - a) / _positions(f)) ** 2),
    # The capstone report's code: sums over G / M
    "sum": lambda f, a: np.sum(((gram(f) - a) / _positions(f)) ** 2),
    # The slides: 1/2 sum (G - A)^2
    "half_sum": lambda f, a: 0.5 * np.sum((gram(f) - a) ** 2),
    # NeuArt, Gatys et al. 2015, Premamayudu et al.
    "gatys": style_loss,
    # jcjohnson/neural-style: MSELoss of G / (C N)
    "mean_elements": lambda f, a: np.mean(((gram(f) - a) / f.size) ** 2),
}
"""(features, undivided Gram matrix of a style of the same size) -> loss of one layer."""


def _positions(features: np.ndarray) -> int:
    return features.shape[0] * features.shape[1]


def weighted_gram(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """G_ij = sum_k w_k F_ik F_jk."""
    return sum(
        weights[y, x] * np.outer(features[y, x], features[y, x])
        for y in range(features.shape[0])
        for x in range(features.shape[1])
    )


def moments(features: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the channels."""
    positions = features.reshape(-1, features.shape[-1])
    mean = np.average(positions, axis=0, weights=weights.ravel())
    return mean, np.atleast_2d(np.cov(positions.T, aweights=weights.ravel(), ddof=0))


def nodes(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of a quantile function: middles of the shares, and the values sorted."""
    values, weights = values[weights > 0], weights[weights > 0]
    order = np.argsort(values)
    ordered = weights[order] / np.sum(weights)
    return np.cumsum(ordered) - ordered / 2, values[order]


def quantiles(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many equally spaced levels as there are positions, and the quantiles there."""
    levels = (np.arange(len(values)) + 0.5) / len(values)
    return levels, np.interp(levels, *nodes(values, weights))


def _distance_along_line(
    x: np.ndarray, weights: np.ndarray, y: np.ndarray, target_weights: np.ndarray
) -> float:
    levels, ordered = nodes(x, weights)
    matched = np.interp(levels, *quantiles(y, target_weights))
    own = weights[weights > 0][np.argsort(x[weights > 0])]
    return float(np.average((ordered - matched) ** 2, weights=own))


def _distance_along_lines(
    f: np.ndarray, w: np.ndarray, p: np.ndarray, v: np.ndarray, directions: np.ndarray
) -> float:
    rows = [
        _distance_along_line(
            f.reshape(-1, f.shape[-1]) @ direction,
            w.ravel(),
            p.reshape(-1, p.shape[-1]) @ direction,
            v.ravel(),
        )
        for direction in directions
    ]
    return float(np.mean(rows))


def _energy_along_lines(p: np.ndarray, v: np.ndarray, directions: np.ndarray) -> float:
    rows = [
        np.mean(quantiles(p.reshape(-1, p.shape[-1]) @ direction, v.ravel())[1] ** 2)
        for direction in directions
    ]
    return float(np.mean(rows))


def _moment_distance(f: np.ndarray, w: np.ndarray, p: np.ndarray, v: np.ndarray) -> float:
    (mean, covariance), (target_mean, target_covariance) = moments(f, w), moments(p, v)
    deviations = np.sqrt(np.diag(covariance)) - np.sqrt(np.diag(target_covariance))
    return float(np.sum((mean - target_mean) ** 2 + deviations**2))


def _moment_energy(p: np.ndarray, v: np.ndarray) -> float:
    mean, covariance = moments(p, v)
    return float(np.sum(mean**2) + np.trace(covariance))


def _gaussian_distance(f: np.ndarray, w: np.ndarray, p: np.ndarray, v: np.ndarray) -> float:
    """Dowson & Landau 1982, with 1e-4 of the style's mean variance on both diagonals."""
    (mean, covariance), (target_mean, target_covariance) = moments(f, w), moments(p, v)
    ridge = 1e-4 * np.mean(np.diag(target_covariance)) * np.eye(len(mean))
    covariance, target_covariance = covariance + ridge, target_covariance + ridge
    root = scipy.linalg.sqrtm(target_covariance)
    cross = scipy.linalg.sqrtm(root @ covariance @ root)
    traces = np.trace(covariance + target_covariance - 2 * cross).real
    return float(np.sum((mean - target_mean) ** 2) + traces)


def _channels(f: np.ndarray) -> np.ndarray:
    return np.eye(f.shape[-1])


DISTRIBUTION_LOSSES = {
    # crowsonkb/style-transfer-pytorch
    "wasserstein": lambda f, w, p, v, d: _gaussian_distance(f, w, p, v) / f.shape[-1],
    "relative_wasserstein": lambda f, w, p, v, d: (
        _gaussian_distance(f, w, p, v) / _moment_energy(p, v)
    ),
    # The same for the few channels here; see test_gaussians for more.
    "principal_wasserstein": lambda f, w, p, v, d: (
        _gaussian_distance(f, w, p, v) / _moment_energy(p, v)
    ),
    # Li, Wang, Liu & Hou 2017
    "mean_std": lambda f, w, p, v, d: _moment_distance(f, w, p, v) / f.shape[-1],
    "relative_mean_std": lambda f, w, p, v, d: _moment_distance(f, w, p, v) / _moment_energy(p, v),
    # Heitz et al. 2021
    "sliced_wasserstein": _distance_along_lines,
    "relative_sliced_wasserstein": lambda f, w, p, v, d: (
        _distance_along_lines(f, w, p, v, d) / _energy_along_lines(p, v, d)
    ),
    # Risser et al. 2017: a channel is what the direction of its axis sees.
    "histogram": lambda f, w, p, v, d: _distance_along_lines(f, w, p, v, _channels(f)),
    "relative_histogram": lambda f, w, p, v, d: (
        _distance_along_lines(f, w, p, v, _channels(f)) / _energy_along_lines(p, v, _channels(f))
    ),
}
"""(features, weights, a style's features, their weights, directions) -> loss of one layer."""


def adam(
    image: np.ndarray,
    gradient_fn: object,
    learning_rates: list[float],
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> np.ndarray:
    """Kingma & Ba 2014, Algorithm 1, pixels projected to [0, 1] after every step."""
    first = np.zeros_like(image)
    second = np.zeros_like(image)
    for step, rate in enumerate(learning_rates, 1):
        gradient = gradient_fn(image)  # type: ignore[operator]
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        unbiased = first / (1 - beta1**step), second / (1 - beta2**step)
        image = np.clip(image - rate * unbiased[0] / (np.sqrt(unbiased[1]) + epsilon), 0, 1)
    return image
