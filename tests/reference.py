"""The formulas once more, in slow and literal numpy: what the package is compared with."""

import numpy as np


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
