"""The prediction of a run's memory, against compiled programs, and the refusal."""

import jax
import jax.numpy as jnp
import pytest

from neuart_jax import Config, InputError
from neuart_jax.engine import memory
from neuart_jax.engine.compile import compile_fn
from neuart_jax.engine.kernel_transforms import transform_kernels
from neuart_jax.engine.memory import GIB, check_memory, predict_memory, predict_step
from neuart_jax.engine.resolution import resolve_config
from neuart_jax.engine.step import Numbers, StopRule, make_evaluate_fn, make_init_fn, make_tick_fn
from neuart_jax.losses.matting import make_affine_guide
from neuart_jax.models import MODELS, NetworkParams
from neuart_jax.models.features import make_feature_fn, takes_winograd
from neuart_jax.models.params.canonical import nest, variable_shapes
from neuart_jax.objective.build import make_terms, run_layers
from neuart_jax.objective.term import make_objective, make_targets
from neuart_jax.optimizers.build import make_optimizer


def compiled_bytes(config, size, num_regions=0):
    """Compile one step for its memory, and don't run it."""
    network, layers = config.network, run_layers(config.losses)
    architecture = MODELS[network.model]
    module = architecture.make_module(pooling=network.pooling, padding=network.padding)
    channel = jax.ShapeDtypeStruct((3,), jnp.float32)
    params = NetworkParams(nest(variable_shapes(network.model, layers)), channel, channel)
    if takes_winograd(config.compute):
        params = jax.eval_shape(
            lambda params: transform_kernels(module, params, layers, size=(size, size)), params
        )
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    terms = make_terms(config.losses, presence=((True,),) * num_regions)
    feature_fn = make_feature_fn(module, layers, precision=config.compute.precision)

    def find_targets(params, image):
        features = feature_fn(params, image)
        places = {n: jnp.ones((*f.shape[:2], num_regions)) for n, f in features.items()}
        return make_targets(
            terms,
            content_image=image,
            style_images=(image,),
            content_features=features,
            style_features=(features,),
            content_memberships=places if num_regions else None,
            style_memberships=(places,),
        )

    targets = jax.eval_shape(find_targets, params, image)
    evaluate = make_evaluate_fn(make_objective(feature_fn, terms))
    optimizer = make_optimizer(config.optimizer, num_steps=40)
    numbers = Numbers(StopRule(40), optimizer.numbers)
    init = make_init_fn(evaluate, optimizer)
    state = jax.eval_shape(init, image, params, targets)
    tick = compile_fn(make_tick_fn(evaluate, optimizer, batched=False), donate=(0,))
    found = tick.lower(state, params, targets, numbers).compile().memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other compilers order otherwise")
@pytest.mark.parametrize(
    "settings",
    [
        {"model": "vgg19", "optimizer": "adam"},
        {"model": "vgg16", "optimizer": "adam", "pooling": "max", "convolution": "direct"},
        {"model": "resnet50", "optimizer": "lbfgs"},
        {"model": "resnet50", "optimizer": "adam", "pooling": "average"},
    ],
    ids=lambda settings: " ".join(settings.values()),
)
def test_within_a_fifth_of_what_the_compiler_reserves(settings):
    config = resolve_config(Config().replace(**settings))
    predicted = predict_step(config, run_layers(config.losses), height=128, width=128).total
    assert predicted == pytest.approx(compiled_bytes(config, 128), rel=0.2)


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other compilers order otherwise")
def test_regions_and_losses_that_sort_are_counted():
    config = resolve_config(
        Config().replace(optimizer="adam", style_loss="relative_sliced_wasserstein")
    )
    layers = run_layers(config.losses)
    predicted = predict_step(config, layers, height=128, width=128, num_regions=3)
    plain = predict_step(resolve_config(Config()), layers, height=128, width=128)
    assert predicted.total == pytest.approx(compiled_bytes(config, 128, num_regions=3), rel=0.2)
    assert predicted.growing > 1.5 * plain.growing


def test_a_shallow_network_is_counted_by_hand():
    config = resolve_config(
        Config().replace(
            model="vgg19",
            weights="random",
            optimizer="adam",
            pooling="max",
            convolution="direct",
            content_layers="relu1_2",
            style_layers="relu1_1,relu2_1",
        )
    )
    found = predict_step(config, run_layers(config.losses), height=32, width=48)
    pixels = 32 * 48
    images = 7 * 3 * pixels
    # Two ReLUs of 64 channels, three maxima of them, a ReLU of 128.
    activations = (2 * 64 + 3 * 64 / 4 + 128 / 4) * pixels
    content_target, largest = 64 * pixels, 64 * pixels
    assert found.growing == 4 * (images + activations + content_target + 2.5 * largest)
    kernels = 9 * (3 * 64 + 64 * 64 + 64 * 128) + 64 + 64 + 128
    assert found.constant == 4 * (2 * kernels + 64**2 + 64**2 + 128**2)


def test_in_windows_only_the_pictures_grow():
    config = resolve_config(Config().replace(optimizer="adam", window=256))

    def growing(size, **settings):
        changed = config.replace(**settings)
        return predict_step(changed, run_layers(changed.losses), height=size, width=size).growing

    images = 7 * 3 * 4 * (1024**2 - 512**2)
    [(content, _)] = config.losses.content_layers
    stride = MODELS[config.network.model].layer_stride(content)
    channels = 4 * 512 * (1024**2 - 512**2) // stride**2
    assert growing(1024) - growing(512) == images + channels
    assert growing(256) == growing(256, window=0)


@pytest.mark.parametrize("model", list(MODELS))
def test_linear_in_pixels(model):
    config = resolve_config(Config().replace(model=model))
    layers = run_layers(config.losses)
    small, large = (predict_step(config, layers, height=h, width=256) for h in (128, 512))
    assert large.growing == 4 * small.growing
    assert large.constant == small.constant


def test_each_setting_has_its_share():
    def growing(**settings):
        config = resolve_config(Config().replace(**settings))
        return predict_step(config, run_layers(config.losses), height=64, width=64).growing

    pair = 2 * 64 * 64 * 3 * 4
    assert growing(history=11) - growing(history=10) == pair
    assert growing(optimizer="lbfgs", history=10) - growing(optimizer="adam") == 10 * pair
    shallow = growing(content_layers="relu2_1", style_layers="relu1_1", optimizer="adam")
    assert shallow < 0.8 * growing(optimizer="adam")
    features = growing(optimizer="adam") - 7 * pair // 2
    assert growing(optimizer="adam", precision="bfloat16") == features // 2 + 7 * pair // 2


def test_a_run_takes_more_than_its_step_where_it_shares_the_machines_memory(monkeypatch):
    config = resolve_config(Config().replace(convolution="direct"))
    layers = run_layers(config.losses)

    def predict(platform, **settings):
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        return predict_memory(config.replace(**settings), layers, height=64, width=96)

    step = predict_step(config, layers, height=64, width=96)
    assert predict("gpu") == step
    # One more state of 27 pictures: 5, direction and gradient, and 10 pairs of differences.
    assert predict("cpu").growing - step.growing == 27 * 64 * 96 * 3 * 4
    assert predict("cpu", optimizer="adam").growing < predict("cpu").growing
    assert predict("cpu").constant > step.constant


@pytest.mark.parametrize("free, remedy", [(1.0, r"use --size=\d+, or"), (0.01, "close other")])
def test_refusal_names_what_came_what_is_there_and_what_fits(monkeypatch, free, remedy):
    config = resolve_config(Config())
    layers = run_layers(config.losses)
    monkeypatch.setattr(memory, "free_memory", lambda: int(free * GIB))
    with pytest.raises(InputError, match=remedy) as refusal:
        check_memory(config, layers, height=1536, width=2048)
    predicted = predict_memory(config, layers, height=1536, width=2048).total / GIB
    assert f"2048x1536 pixels needs about {predicted:.1f} GiB" in str(refusal.value)
    assert f"the {free:.1f} GiB of memory that are free" in str(refusal.value)
    check_memory(config.replace(memory_check=False), layers, height=1536, width=2048)


def test_a_batch_that_does_not_fit_is_told_how_many_pairs_do(monkeypatch):
    config = resolve_config(Config())
    layers = run_layers(config.losses)
    one = predict_memory(config, layers, height=256, width=256)
    monkeypatch.setattr(memory, "free_memory", lambda: one.constant + 3 * one.growing)
    check_memory(config, layers, height=256, width=256, num_pairs=3)
    with pytest.raises(InputError, match="a batch of 5 images of 256x256.*paint 3 at once"):
        check_memory(config, layers, height=256, width=256, num_pairs=5)


def test_the_size_advised_fits_and_hardly_more_does(monkeypatch):
    config = resolve_config(Config())
    layers = run_layers(config.losses)
    monkeypatch.setattr(memory, "free_memory", lambda: GIB)
    with pytest.raises(InputError) as refusal:
        check_memory(config, layers, height=2048, width=2048)
    size = int(refusal.value.remedy.split("--size=")[1].split(",")[0])
    check_memory(config, layers, height=size, width=size)
    with pytest.raises(InputError):
        check_memory(config, layers, height=size + 16, width=size + 16)


@pytest.mark.parametrize("limit, expected", [("max", 8), (str(3 * GIB), 2), (str(99 * GIB), 8)])
def test_free_is_what_the_machine_and_the_control_group_leave(
    tmp_path, monkeypatch, limit, expected
):
    class Device:
        def memory_stats(self):
            return None

    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    monkeypatch.setattr(
        memory.psutil, "virtual_memory", lambda: type("M", (), {"available": 8 * GIB})
    )
    assert memory.free_memory() == expected * GIB


def test_a_device_that_knows_its_memory_is_asked(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 10 * GIB, "bytes_in_use": 3 * GIB}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert memory.free_memory() == 7 * GIB


@pytest.mark.parametrize(
    ("files", "reclaimable"),
    [
        (("memory.max", "memory.current", "memory.stat"), "inactive_file"),
        (
            (
                "memory/memory.limit_in_bytes",
                "memory/memory.usage_in_bytes",
                "memory/memory.stat",
            ),
            "total_inactive_file",
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_what_a_container_may_give_back_is_free(tmp_path, monkeypatch, files, reclaimable):
    class Machine:
        available = 64 * GIB

    monkeypatch.setattr(memory.psutil, "virtual_memory", Machine)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    limit, used, cached = 4 * GIB, round(3.9 * GIB), round(3.5 * GIB)
    statistics = f"anon 7\n{reclaimable} {cached}\nactive_file 9"
    (tmp_path / "memory").mkdir()
    for name, text in zip(files, (str(limit), str(used), statistics), strict=True):
        (tmp_path / name).write_text(text + "\n")
    assert memory.free_memory() == limit - used + cached
    # Without statistics nothing is known to be given back.
    (tmp_path / files[2]).unlink()
    assert memory.free_memory() == limit - used
    # Version 1 says an enormous number where there is no limit, version 2 "max".
    for text in (str(2**63 - 4096), "max"):
        (tmp_path / files[0]).write_text(text)
        assert memory.free_memory() == 64 * GIB


def test_realism_is_in_the_prediction():
    """What the guide keeps, as its shapes say, and more for its gradient."""
    size = 64
    guide = jax.eval_shape(make_affine_guide, jax.ShapeDtypeStruct((size, size, 3), jnp.float32))
    kept = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(guide))
    config = resolve_config(Config().replace(model="vgg19", weights="random"))
    layers = run_layers(config.losses)
    plain, realistic = (
        predict_step(config.replace(realism_weight=weight), layers, height=size, width=size)
        for weight in (0.0, 1e4)
    )
    assert realistic.growing - plain.growing > kept
