"""Coarse to fine, with a network small enough to run at real sizes."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose, assert_array_equal

from neuart_jax import (
    Config,
    FeatureNetwork,
    Status,
    load_image,
    save_image,
    stylize,
    stylize_batch,
)
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.scales import (
    SMALLEST_SIDE,
    Stage,
    count_style_halvings,
    make_scale,
    plan_stages,
    settle_scales,
)
from neuart_jax.inputs.pair import make_pair
from neuart_jax.io.images import resize_image
from neuart_jax.runs.prepare import prepare

CONFIG = Config().replace(
    content_layers="pixels",
    style_layers="pixels",
    tv_weight=1.0,
    steps=4,
    coarse_steps=6,
    scales=3,
    report_every=3,
)


def pixels(params, image):
    return {"pixels": image * params}


NETWORK = FeatureNetwork(pixels, jnp.float32(1.0))


@pytest.fixture(scope="module")
def pictures():
    return smooth_image(200, 300, seed=3), smooth_image(260, 220, seed=4)


def test_both_pictures_are_halved_until_a_side_is_too_small(pictures):
    config = CONFIG.replace(scales=5, steps=4, coarse_steps=6)
    pair = make_pair(resolve_config(config, check_names=False), *pictures)
    stages = plan_stages(pair.config, pair.content.shape)
    assert stages == (Stage((100, 150), 1, 6, True), Stage((200, 300), 0, 4, True))
    assert min(100, 110) >= SMALLEST_SIDE > 50
    coarse, full = (make_scale(pair, stage.halvings) for stage in stages)
    assert coarse.style_images[0].shape == (130, 110, 3)
    assert_array_equal(coarse.content_image, resize_image(pictures[0], 100, 150))
    assert_array_equal(full.content_image, pictures[0])


def test_a_small_style_drops_no_scale():
    config = resolve_config(CONFIG.replace(scales=2), check_names=False)
    content, style = smooth_image(200, 300, seed=3), smooth_image(60, 110, seed=4)
    pair = make_pair(config, content, style)
    coarse, full = (make_scale(pair, s.halvings) for s in plan_stages(config, content.shape))
    assert coarse.content_image.shape == (100, 150, 3)
    for scale in (coarse, full):
        assert_array_equal(scale.style_images[0], style)


@pytest.mark.parametrize(
    ("size", "halvings", "spared", "expected"),
    [
        ((1024, 1024), 3, 0, 3),
        ((1024, 1024), 3, 1, 2),
        ((1024, 1024), 1, 2, 0),
        ((640, 1024), 3, 0, 2),  # 80 would be too few.
        ((95, 300), 2, 0, 0),
    ],
)
def test_how_often_a_style_is_halved(size, halvings, spared, expected):
    assert count_style_halvings((*size, 3), halvings, spared=spared) == expected


def test_a_style_smaller_than_asked_for_is_as_large_at_the_coarsest_scale(tmp_path, monkeypatch):
    monkeypatch.setattr("neuart_jax.engine.scales.SMALLEST_SIDE", 4)
    save_image(tmp_path / "photo.png", smooth_image(160, 256, seed=3))
    save_image(tmp_path / "style.png", smooth_image(64, 40, seed=4))
    files = {name: str(tmp_path / file) for name, file in FILES.items()}

    def coarsest(size, **settings):
        config = Config().replace(**files, **SHALLOW, size=size, **settings)
        plan = prepare(config).plan
        scale = make_scale(plan.pair, plan.stages[0].halvings)
        return scale.content_image, *scale.style_images

    small = coarsest(64, scales=2)
    assert small[1].shape == (32, 20, 3)
    for size, scales in ((128, 3), (256, 4)):
        for image, expected in zip(coarsest(size, scales=scales), small, strict=True):
            assert_array_equal(image, expected)
    # A smaller style that was asked for keeps its proportion.
    assert coarsest(128, scales=3, style_size=32)[1].shape == (8, 5, 3)
    assert coarsest(128, scales=3, style_scale=0.5)[1].shape == (16, 10, 3)


FILES = {"content": "photo.png", "style": "style.png"}
SHALLOW = {
    **{"model": "vgg16", "weights": "random"},
    **{"content_layers": "relu2_1", "style_layers": "relu1_1,relu2_1"},
}


@pytest.mark.parametrize("shape", [(200, 300), (167, 301), (333, 250)])
def test_the_coarsest_scale_is_the_same_whatever_the_full_size(shape, tmp_path, monkeypatch):
    """Bit for bit, as steps let the smallest differences grow."""
    monkeypatch.setattr("neuart_jax.engine.scales.SMALLEST_SIDE", 8)
    save_image(tmp_path / "photo.png", smooth_image(*shape, seed=3))
    save_image(tmp_path / "style.png", smooth_image(411, 290, seed=4))
    config = resolve_config(CONFIG, check_names=False)

    def coarse(size, halvings):
        images = (
            load_image(tmp_path / name, size=size).image for name in ("photo.png", "style.png")
        )
        scale = make_scale(make_pair(config, *images), halvings)
        return scale.content_image, *scale.style_images

    for size, halvings in ((64, 1), (128, 2)):
        for image, same in zip(coarse(size, halvings), coarse(32, 0), strict=True):
            assert_array_equal(image, same)


@pytest.mark.parametrize(
    ("longest", "count"), [(97, 2), (512, 2), (724, 2), (725, 3), (1024, 3), (2048, 4), (10**6, 8)]
)
def test_the_coarsest_scale_stays_where_strokes_are_found(longest, count):
    config = Config()
    assert settle_scales(config, (64, longest, 3)).run.scales == count
    assert settle_scales(config, (longest, 64)).run.scales == count
    assert settle_scales(config.replace(scales=1), (longest, longest)).run.scales == 1


def test_counts_and_histories_run_over_all_scales(pictures):
    seen = []
    result = stylize(*pictures, CONFIG, network=NETWORK, callback=seen.append)
    assert result.status == Status.COMPLETED
    assert result.image.shape == (200, 300, 3)
    assert result.num_steps == 10
    assert len(result.step_losses) == 11
    assert [p.num_steps for p in seen] == [0, 3, 6, 6, 9, 10]
    assert [p.size for p in seen] == [(100, 150)] * 3 + [(200, 300)] * 3
    assert [p.status for p in seen] == [Status.RUNNING] * 5 + [Status.COMPLETED]
    assert {p.total_steps for p in seen} == {10}
    # A step at full size is worth four: 6 of 6 + 4 x 4 units are coarse.
    np.testing.assert_allclose(
        [p.share for p in seen], np.array([0, 3, 6, 6, 6 + 12, 6 + 16]) / 22, rtol=1e-6
    )
    assert [line["step"] for line in result.history] == [p.num_steps for p in seen]
    assert result.num_evaluations == seen[-1].num_evaluations
    assert np.all(np.diff([p.seconds for p in seen]) > 0)


def test_the_fine_scale_starts_from_the_coarse_result(pictures):
    small = [resize_image(p, *(s // 2 for s in p.shape[:2])) for p in pictures]
    coarse = stylize(*small, CONFIG.replace(scales=1, steps=6), network=NETWORK)
    images = []
    stylize(*pictures, CONFIG, network=NETWORK, callback=lambda p: images.append(p.image()))
    # Reported: coarse steps 0, 3 and 6, then the fine start, all at full size.
    assert all(image.shape == (200, 300, 3) for image in images)
    assert_allclose(images[3], resize_image(coarse.image, 200, 300), atol=1e-4)


def test_a_stop_at_a_coarse_scale_gives_a_picture_of_full_size(pictures):
    result = stylize(*pictures, CONFIG, network=NETWORK, callback=lambda p: p.num_steps >= 3)
    assert (result.status, result.num_steps) == (Status.STOPPED, 3)
    assert result.image.shape == (200, 300, 3)


def test_a_failure_at_a_coarse_scale_ends_the_run(pictures):
    def broken(params, image):
        return {"pixels": jnp.where(image.shape[0] < 150, jnp.nan, 1.0) * image}

    result = stylize(*pictures, CONFIG, network=FeatureNetwork(broken, None))
    assert (result.status, result.num_steps) == (Status.NON_FINITE, 0)
    assert result.image.shape == (200, 300, 3)
    assert np.all(np.isfinite(result.image))


def test_one_scale_is_the_plain_run(pictures):
    result = stylize(*pictures, CONFIG.replace(scales=1), network=NETWORK)
    assert (result.num_steps, len(result.step_losses)) == (4, 5)


def test_pairs_of_a_batch_go_through_all_scales_or_end_on_their_own(pictures):
    """The second is stopped at the coarse scale, the third has no numbers at the fine one."""
    content, style = pictures
    seen = [[], [], []]

    def stop_second(pair, progress):
        seen[pair].append(progress.num_steps)
        return pair == 1 and progress.num_steps >= 3

    def broken(params, image):
        is_broken = (image.shape[0] == 200) & (jnp.mean(image) < 0.1)
        return {"pixels": jnp.where(is_broken, jnp.nan, 1.0) * image}

    network = FeatureNetwork(broken, None)
    config = CONFIG.replace(optimizer="adam", learning_rate=1e-4)
    contents = [content, content[::-1].copy(), 0.05 * content]
    results = stylize_batch(contents, [style] * 3, config, network=network, callback=stop_second)
    statuses = [Status.COMPLETED, Status.STOPPED, Status.NON_FINITE]
    assert [result.status for result in results] == statuses
    assert [result.num_steps for result in results] == [10, 3, 6]
    assert {result.image.shape for result in results} == {(200, 300, 3)}
    assert seen == [[0, 3, 6, 6, 9, 10], [0, 3], [0, 3, 6, 6]]
    alone = stylize(content, style, config, network=network)
    assert_allclose(results[0].image, alone.image, atol=1e-5)
    assert results[0].num_evaluations == alone.num_evaluations


def test_a_realistic_stage_comes_last_and_alone(pictures):
    config = CONFIG.replace(scales=2, steps=4, coarse_steps=6, realism_weight=1.0)
    size = pictures[0].shape
    stages = plan_stages(config.replace(realism_steps=9), size)
    assert [(s.num_steps, s.realistic) for s in stages] == [(6, False), (4, False), (9, True)]
    assert stages[2].size == stages[1].size
    assert [stage.realistic for stage in plan_stages(config, size)] == [True, True]


def test_the_realistic_stage_holds_to_the_contents_edges(pictures):
    config = CONFIG.replace(scales=1, steps=5, content_weight=0.0)
    seen = []
    staged = stylize(
        *pictures,
        config.replace(realism_weight=1e4, realism_steps=5),
        network=NETWORK,
        callback=seen.append,
    )
    assert [p.num_steps for p in seen] == [0, 3, 5, 5, 8, 10]
    assert ["realism" in p.losses for p in seen] == [False] * 3 + [True] * 3
    free = seen[3].losses["realism"]
    assert staged.losses["realism"] < 0.5 * free


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "lbfgs_fixed"])
def test_a_carried_state_changes_the_first_fine_step(pictures, optimizer):
    config = CONFIG.replace(optimizer=optimizer, steps=2)
    fresh, carried = (
        stylize(*pictures, config.replace(carry_state=carry), network=NETWORK)
        for carry in (False, True)
    )
    assert_allclose(fresh.step_losses[:7], carried.step_losses[:7], rtol=1e-5)
    assert abs(fresh.step_losses[-2] - carried.step_losses[-2]) > 1e-6
    assert carried.step_losses[-1] < carried.step_losses[6]


@pytest.mark.slow
def test_states_are_carried_in_a_batch_as_alone(pictures):
    config = CONFIG.replace(carry_state=True)
    other = [smooth_image(*picture.shape[:2], seed=9) for picture in pictures]
    together = stylize_batch(
        [pictures[0], other[0]], [pictures[1], other[1]], config, network=NETWORK
    )
    alone = stylize(*pictures, config, network=NETWORK)
    assert_allclose(together[0].step_losses, alone.step_losses, rtol=1e-3)


def test_what_stays_a_photograph_keeps_its_details(pictures):
    config = CONFIG.replace(steps=1, coarse_steps=1, stylization=0.0, tv_weight=100.0)
    stays = stylize(*pictures, config, network=NETWORK)
    assert_allclose(stays.image, pictures[0], atol=1e-4)
    # Its own edges cost nothing.
    assert stays.losses["tv"] == pytest.approx(0, abs=1e-6)
    # A noise start has nothing to keep.
    noise = stylize(*pictures, config.replace(init="noise", steps=2), network=NETWORK)
    assert np.max(np.abs(noise.image - pictures[0])) > 0.05
