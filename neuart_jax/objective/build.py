"""The terms of the objective, and their construction from a configuration."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from neuart_jax.config.errors import InputError
from neuart_jax.config.sections import LossConfig, RealismConfig
from neuart_jax.losses.elementwise import TV_LOSSES, range_penalty
from neuart_jax.losses.matting import affine_energy, make_affine_guide
from neuart_jax.objective.content import content_term
from neuart_jax.objective.layer_target import LayerTarget
from neuart_jax.objective.smoothing import Smoothing
from neuart_jax.objective.style import Presence, StyleTerm, style_term
from neuart_jax.objective.temporal import temporal_term
from neuart_jax.objective.term import Targets, Term, all_layers


def total_variation_term(
    *,
    weight: float,
    formula: str = "mean_squares",
    pixel_scale: float = 1.0,
    stylization: float = 1.0,
) -> Term:
    """Penalize differences between neighboring pixels; see `elementwise.TV_LOSSES`.

    A photograph isn't smooth, so a share of 1 - stylization of the content image is subtracted
    first. With stylization 0, only the change from the photograph is penalized, so that weakly
    stylized images have no more specks than fully stylized ones.

    Args:
      weight: coefficient of the term.
      formula: key of `elementwise.TV_LOSSES`.
      pixel_scale: value of white.
      stylization: see `LossConfig.stylization`.
    """
    loss = TV_LOSSES[formula]
    return Term(
        name="tv",
        weight=weight,
        # Always an array, as pairs with different stylizations share a program.
        make_target=lambda inputs: (1 - stylization) * inputs.content_image,
        loss_fn=lambda image, features, target: loss((image - target) * pixel_scale),
    )


def range_term(*, weight: float) -> Term:
    """Penalize values outside [0, 1]; see `elementwise.range_penalty`.

    L-BFGS has no bounds on pixels. Values outside are clipped when the image is written, and small
    parts of a texture become black and white specks.
    """
    return Term(
        name="range",
        weight=weight,
        make_target=lambda inputs: (),
        loss_fn=lambda image, features, target: range_penalty(image),
    )


def realism_term(*, weight: float) -> Term:
    """Penalize deviations from local affine functions of the content image's colors.

    Source: Luan et al. 2017, arXiv 1703.07511, equation (2); see `matting.affine_energy`.
    """
    return Term(
        name="realism",
        weight=weight,
        make_target=lambda inputs: make_affine_guide(inputs.content_image),
        loss_fn=lambda image, features, target: affine_energy(image, target),
    )


def make_terms(
    config: LossConfig,
    *,
    num_styles: int = 1,
    presence: Presence = (),
    realism: RealismConfig = RealismConfig(),
    extra_terms: Sequence[Term | StyleTerm] = (),
    temporal_weight: float = 0.0,
    num_references: int = 0,
) -> tuple[Term, ...]:
    """Build the terms of a run with nonzero coefficients, followed by the extra ones.

    Several separate styles are the terms style1, style2, ..., among which the style coefficient is
    divided. If no region has more than one style, they are a single term.

    Args:
      config: settings of the losses, with layers and coefficients.
      num_styles: number of style images.
      presence: the styles of every region; see `style.Presence`.
      realism: settings of the photorealism term.
      extra_terms: custom terms.
      temporal_weight: coefficient of `temporal_term`.
      num_references: largest number of reference frames of a clip's frame; 0 for an image.

    Raises:
      InputError: the number of shares in `config.style_blend` isn't that of the styles.
    """
    smoothing = Smoothing(config.smoothing or "none", config.temperature or 1.0)
    shares = _style_shares(config.style_blend, num_styles)
    shared: dict[str, Any] = {
        "smoothing": smoothing,
        "shares": shares,
        "presence": presence,
        "stylization": config.stylization,
        "balance": config.balance,
    }
    # Sorted, as the order of layers doesn't change the objective.
    style = shared | {
        "layer_weights": tuple(sorted(config.style_layers)),
        "formula": config.style_loss or "relative",
    }
    one_style_each = presence and all(sum(has) == 1 for has in presence)
    if num_styles == 1 or config.style_mix == "blended" or one_style_each:
        style_terms = [style_term(weight=config.style_weight, **style)]
    else:
        style_terms = [
            style_term(
                weight=config.style_weight * share,
                members=[index],
                name=f"style{index + 1}",
                **style,
            )
            for index, share in enumerate(shares)
            if share > 0
        ]
    terms = (
        content_term(
            weight=config.content_weight or 0.0,
            layer_weights=tuple(sorted(config.content_layers)),
            formula=config.content_loss,
            smoothing=smoothing,
            balance=config.balance,
        ),
        *style_terms,
        total_variation_term(
            weight=config.tv_weight or 0.0,
            formula=config.tv_loss,
            pixel_scale=config.pixel_scale,
            stylization=config.stylization,
        ),
        range_term(weight=config.range_weight or 0.0),
        realism_term(weight=realism.realism_weight),
        temporal_term(
            weight=temporal_weight if num_references else 0.0, num_references=num_references
        ),
    )
    own = [
        term
        if isinstance(term, Term)
        else style_term(
            weight=term.weight,
            layer_weights=term.layer_weights,
            formula=term.formula,
            name=term.name,
            **shared,
        )
        for term in extra_terms
    ]
    return (*(term for term in terms if term.weight > 0), *own)


def run_layers(config: LossConfig) -> tuple[str, ...]:
    """Return all layers that a run with resolved losses reads, in order."""
    # The styles' shares don't matter here.
    return all_layers(make_terms(dataclasses.replace(config, style_blend=())))


def find_layer_weights(targets: Targets) -> dict[str, dict[str, float]]:
    """Return the w_l of every layer by term and layer, as used by the terms of `make_terms`."""
    return {
        name: {layer: float(weight) for layer, weight in target.layer_weights.items()}
        for name, target in targets.values.items()
        if isinstance(target, LayerTarget)
    }


def _style_shares(blend: Sequence[float], num_styles: int) -> list[float]:
    if not blend:
        return [1 / num_styles] * num_styles
    if len(blend) != num_styles or not 0 < sum(blend) < math.inf:
        raise InputError(
            f"style_blend has {len(blend)} shares with the sum {sum(blend):g}",
            expected=f"{num_styles} shares, one for each style, not all of them 0",
            remedy="give one share for every style, or none at all",
        )
    return [share / sum(blend) for share in blend]
