"""Networks shared by the runs of an experiment."""

import functools
import logging
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from neuart_jax.config.config import Config
from neuart_jax.models.params.load import Network, load_network, settle_network
from neuart_jax.objective.build import run_layers
from neuart_jax.runs.prepare import prepare, resolve_run

logger = logging.getLogger(__name__)


def settle_configs(configs: Iterable[Config]) -> list[Config]:
    """Resolve every configuration's network, each distinct one only once."""
    settle = functools.cache(settle_network)
    settled = []
    for config in configs:
        network = settle(config.network).config
        settled.append(config.replace(model=network.model, weights=network.weights))
    return settled


class NetworkPool:
    """Loads a network once, with all layers that any run on the same images reads.

    Filters may be fitted to the images: runs to be compared must use the same filters, and a fit
    takes longer than many runs. Only the networks for one pair are kept at a time.

    Args:
      configs: configurations of all runs.
    """

    def __init__(self, configs: Iterable[Config]) -> None:
        self._layers: dict[Hashable, dict[str, None]] = {}
        self._kept: dict[Hashable, Network] = {}
        self._images: Any = None
        for config in configs:
            resolved = resolve_run(config)
            wanted = self._layers.setdefault(_key_of(resolved), {})
            wanted.update(dict.fromkeys(run_layers(resolved.losses)))

    def load(self, config: Config) -> Network:
        """Return the network of a run, and log one line (level INFO) on its weights when loaded.

        Raises:
          InputError: an image can't be read, or the weights aren't available.
        """
        resolved = resolve_run(config)
        key = _key_of(resolved)
        if self._images != resolved.images:
            self._images = resolved.images
            self._kept.clear()
        if key not in self._kept:
            pair = prepare(resolved).plan.pair
            self._kept[key] = load_network(
                resolved.network,
                layers=tuple(self._layers[key]),
                images=[np.asarray(image) for image in (pair.content, *pair.styles)],
                seed=resolved.run.seed,
            )
            logger.info(self._kept[key].message)
        return self._kept[key]


def _key_of(config: Config) -> Hashable:
    return config.images, config.network, config.run.seed
