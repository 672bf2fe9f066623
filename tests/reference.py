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


def total_variation(image: np.ndarray) -> float:
    """Mean squared step down plus mean squared step to the right."""
    height, width, channels = image.shape
    down = [
        (image[y + 1, x, c] - image[y, x, c]) ** 2
        for y in range(height - 1)
        for x in range(width)
        for c in range(channels)
    ]
    right = [
        (image[y, x + 1, c] - image[y, x, c]) ** 2
        for y in range(height)
        for x in range(width - 1)
        for c in range(channels)
    ]
    return float(np.mean(down) + np.mean(right))


def adam(image: np.ndarray, gradient_fn: object, learning_rates: list[float]) -> np.ndarray:
    """Kingma & Ba 2014, Algorithm 1, pixels projected to [0, 1] after every step."""
    first = np.zeros_like(image)
    second = np.zeros_like(image)
    for step, rate in enumerate(learning_rates, 1):
        gradient = gradient_fn(image)  # type: ignore[operator]
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        image = np.clip(image - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8), 0, 1)
    return image
