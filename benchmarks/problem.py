"""The timed problem: a batch of pairs of square images, and their objective."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import neuart_jax
from benchmarks.flops import evaluation_flops
from neuart_jax.config.config import Config
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.kernel_transforms import prepare_params
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.step import make_evaluate_fn
from neuart_jax.io.decoding import Float32
from neuart_jax.io.images import fill_resize, load_image
from neuart_jax.models.features import make_feature_fn
from neuart_jax.models.params.canonical import CanonicalParams, flatten, write_safetensors
from neuart_jax.models.params.load import Network, load_network
from neuart_jax.objective.build import make_terms, run_layers
from neuart_jax.objective.term import Targets, make_objective, make_targets

EvaluateFn = Callable[[Array, Any, Targets], tuple[Array, Array]]
"""(images, params, targets) -> (losses float32[batch], gradients like the images)."""

_NOISE = 0.05
"""Standard deviation of the noise on the initial image: the content loss has no gradient at the
content itself."""


class Problem(NamedTuple):
    """A batch of independent pairs.

    Attributes:
      config: resolved configuration.
      evaluate: evaluation of all pairs; see `EvaluateFn`.
      evaluate_pair: evaluation of one pair, without the first axis.
      module: the network.
      params: parameters of the network.
      targets: targets of all pairs, along a first axis.
      images: current images, float32[batch, size, size, 3].
    """

    config: Config
    evaluate: EvaluateFn
    evaluate_pair: EvaluateFn
    module: Any
    params: Any
    targets: Targets
    images: Array

    @property
    def flops(self) -> int:
        """Number of operations for an evaluation of all pairs; see `flops.evaluation_flops`."""
        stride_on = getattr(self.module, "stride_on", "")
        return len(self.images) * evaluation_flops(self.config, stride_on=stride_on)


def with_images(config: Config) -> Config:
    """Fill in scikit-image's cat and our own brush strokes if no images are named."""
    import skimage  # Imported here, as measured processes don't need it.

    cat = Path(skimage.__file__).parent / "data" / "chelsea.png"
    strokes = Path(neuart_jax.__file__).parents[1] / "docs" / "images" / "brush_strokes.png"
    images = config.images
    return config.replace(content=images.content or str(cat), style=images.style or str(strokes))


def load_images(config: Config) -> tuple[Float32, Float32]:
    """Load content and style as squares, float32[size, size, 3], at the configuration's `size`.

    Images are cropped, and enlarged if needed, so that a size fixes the number of pixels.
    """
    images = config.images
    content, style = (
        fill_resize(load_image(path).image, images.size, images.size)
        for path in (images.content, images.style[0])
    )
    return content, style


def write_network(config: Config, path: Path) -> None:
    """Load or fit a network once for all measured processes.

    Fitting in each process would take longer than what is timed, and raise its peak memory.
    """
    config = resolve_config(config)
    content, style = load_images(config)
    network = _load_network(config, content, style)
    params = network.params
    mean, std = (tuple(map(float, np.asarray(each))) for each in (params.mean, params.std))
    variables = {name: np.asarray(array) for name, array in flatten(params.variables).items()}
    stride_on = getattr(network.module, "stride_on", "")
    write_safetensors(
        path,
        CanonicalParams(variables, (mean, std), stride_on),  # type: ignore[arg-type]
        model=config.network.model,
    )


def _load_network(config: Config, content: np.ndarray, style: np.ndarray) -> Network:
    layers, images = run_layers(config.losses), [content, style]
    return load_network(config.network, layers=layers, images=images, seed=config.run.seed)


def make_problem(config: Config, *, batch: int, dtype: Any = jnp.float32) -> Problem:
    """Build pairs whose contents are one image with different shifts.

    Args:
      config: configuration with `content`, `style` and `size`.
      batch: number of pairs. A single pair is evaluated as in a run, without a batch axis.
      dtype: dtype of the network's parameters and of the images. A float64 problem must be
        evaluated under `jax.enable_x64`.
    """
    config = resolve_config(config)
    content, style = load_images(config)
    network = _load_network(config, content, style)
    terms = make_terms(config.losses)
    layers = run_layers(config.losses)
    feature_fn = make_feature_fn(network.module, layers, precision=config.compute.precision)
    prepared = prepare_params(network, config, layers=layers, size=content.shape[:2])
    evaluate_one = make_evaluate_fn(make_objective(feature_fn, terms))

    def find_targets(params: Any, contents: Array, style: Array) -> Targets:
        style_features = (feature_fn(params, style),)

        def of_content(content: Array) -> Targets:
            return make_targets(
                terms,
                content_image=content,
                style_images=(style,),
                content_features=feature_fn(params, content),
                style_features=style_features,
            )

        # Sequentially, so that this doesn't take more memory than what is measured.
        return jax.lax.map(of_content, contents)

    def evaluate_pair(image: Array, params: Any, targets: Targets) -> tuple[Array, Array]:
        evaluation, _ = evaluate_one(image, params, targets)
        return evaluation.loss, evaluation.gradient

    def evaluate(images: Array, params: Any, targets: Targets) -> tuple[Array, Array]:
        if batch > 1:
            return jax.vmap(evaluate_pair, in_axes=(0, None, 0))(images, params, targets)
        one = jax.tree.map(lambda array: array[0], targets)
        loss, gradient = evaluate_pair(images[0], params, one)
        return loss.reshape(1), gradient[None]

    shifts = [number * config.images.size // batch for number in range(batch)]
    contents = np.stack([np.roll(content, shift, axis=1) for shift in shifts])
    noise = np.random.default_rng(0).normal(0, _NOISE, contents.shape)
    images = np.clip(contents + noise, 0, 1).astype(np.float32)
    # Only here, as networks are created in float32.
    with jax.enable_x64(dtype == jnp.float64):
        params, first, second, start = jax.tree.map(
            lambda array: jnp.asarray(array, dtype), (prepared, contents, style, images)
        )
        targets = compile_fn(find_targets)(params, first, second)
    return Problem(config, evaluate, evaluate_pair, network.module, params, targets, start)
