"""The affine energy against pymatting's matting Laplacian and against least squares by hand.

pymatting's matrix has inverses of nearly singular matrices in it: where colors lie on a line, it is
wrong by far more than float32 is here, so gray and flat pictures are compared with QR only.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import smooth_image
from numpy.testing import assert_allclose

from neuart_jax.config.errors import InputError
from neuart_jax.losses.matting import AffineGuide, affine_energy, make_affine_guide

EPSILON = 1e-7

make_guide = jax.jit(make_affine_guide)


@jax.jit
def value_and_gradient(image, guide):
    """Return what V^T L V and its gradient 2 L V are said to be: of the sum, not of the mean."""
    value, gradient = jax.value_and_grad(affine_energy)(image, guide)
    height, width, channels = image.shape
    num_terms = (height - 2) * (width - 2) * channels
    return value * num_terms, gradient * num_terms


@pytest.fixture(scope="module")
def cf_laplacian():
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Otherwise the import compiles all of the package, for most of a minute.
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
        from pymatting import cf_laplacian
    return cf_laplacian


def photograph():
    """8 bits, as a file has them."""
    return np.round(smooth_image(12, 14, seed=3).astype(np.float64) * 255) / 255


def gray_photograph():
    return np.repeat(photograph()[..., :1], 3, axis=2)


def partly_flat_photograph():
    picture = photograph()
    picture[:6] = 1.0
    picture[6:9, :8] = (0.2, 0.5, 0.1)
    return picture


# Of one shape, for one compilation.
PICTURES = {
    "photograph": photograph,
    "gray": gray_photograph,
    "partly flat": partly_flat_photograph,
    "flat": lambda: np.full((12, 14, 3), 0.37),
    "noise": lambda: np.random.default_rng(6).random((12, 14, 3)),
}


def least_squares(image, guide):
    """Levin et al. 2008, equations (2) and (5): residuals of every window's fit, and their energy.

    As sums over windows and channels, with the derivative by the image.
    """
    energy, gradient = 0.0, np.zeros(image.shape)
    height, width = image.shape[:2]
    for y in range(height - 2):
        for x in range(width - 2):
            window = np.s_[y : y + 3, x : x + 3]
            colors = guide[window].reshape(9, 3) - guide[y + 1, x + 1]
            system = np.block(
                [[colors, np.ones((9, 1))], [np.sqrt(EPSILON) * np.eye(3), np.zeros((3, 1))]]
            )
            wanted = np.concatenate([image[window].reshape(9, 3), np.zeros((3, 3))])
            basis, _ = np.linalg.qr(system)
            residual = wanted - basis @ (basis.T @ wanted)
            energy += np.sum(residual**2)
            gradient[window] += 2 * residual[:9].reshape(3, 3, 3)
    return energy, gradient


@pytest.mark.parametrize("epsilon", [1e-7, 1e-2])
def test_energy_and_gradient_are_those_of_the_matting_laplacian(cf_laplacian, epsilon):
    """sum_c V_c^T L V_c, Luan et al. 2017, equation (2), and 2 L V."""
    guide, image = PICTURES["noise"](), np.random.default_rng(0).random((12, 14, 3))
    laplacian = cf_laplacian(guide, epsilon=epsilon)
    product = (laplacian @ image.reshape(-1, 3)).reshape(image.shape)
    with jax.enable_x64(True):
        of_guide = make_affine_guide(jnp.asarray(guide), epsilon=epsilon)
        value, gradient = value_and_gradient(jnp.asarray(image), of_guide)
    assert_allclose(value, np.sum(image * product), rtol=1e-11)
    assert_allclose(gradient, 2 * product, atol=1e-11)


def test_float32_is_enough_for_the_matting_laplacian_of_a_photograph(cf_laplacian):
    guide, image = photograph(), np.random.default_rng(0).random((12, 14, 3))
    product = (cf_laplacian(guide) @ image.reshape(-1, 3)).reshape(image.shape)
    value, gradient = value_and_gradient(
        image.astype(np.float32), make_guide(guide.astype(np.float32))
    )
    assert_allclose(value, np.sum(image * product), rtol=1e-6)
    assert_allclose(gradient, 2 * product, atol=1e-3)


@pytest.mark.parametrize("name", PICTURES)
def test_energy_is_what_least_squares_leave(name):
    guide, image = PICTURES[name](), np.random.default_rng(0).random((12, 14, 3))
    energy, gradient = least_squares(image, guide)
    with jax.enable_x64(True):
        ours = value_and_gradient(jnp.asarray(image), make_guide(jnp.asarray(guide)))
    assert_allclose(ours[0], energy, rtol=1e-9)
    assert_allclose(ours[1], gradient, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3), (3, 6)])
def test_few_windows(shape):
    image, guide = np.random.default_rng(0).random((2, *shape, 3)).astype(np.float32)
    energy, gradient = least_squares(image.astype(np.float64), guide.astype(np.float64))
    ours = value_and_gradient(image, make_guide(guide))
    assert_allclose(ours[0], energy, rtol=1e-5)
    assert_allclose(ours[1], gradient, atol=1e-4)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
def test_float32_is_enough(name, noise):
    """Also where windows are flat or gray, and for energies as small as the ridge's."""
    guide = PICTURES[name]().astype(np.float32)
    random = np.random.default_rng(0).normal(size=guide.shape)
    image = (0.5 * guide[..., ::-1] + 0.2 + noise * random).astype(np.float32)
    energy, gradient = least_squares(image.astype(np.float64), guide.astype(np.float64))
    value, ours = value_and_gradient(image, make_guide(guide))
    assert value.dtype == ours.dtype == jnp.float32
    # Noise of 0.01 makes it about 0.2 in this picture; 1e-5 is 3e-8 for each of its terms.
    assert_allclose(value, energy, rtol=1e-6, atol=1e-5)
    # Where colors are nearly on a line, float32 knows their other directions in few digits.
    assert_allclose(ours, gradient, atol=1e-3)


def test_float32_is_exact_where_contrast_is_low():
    """Not as coarse as colors are: 0.9 is known to 6e-8, and its difference to 0.9001 is too."""
    guide = np.float32(0.9) + np.float32(1e-3) * photograph().astype(np.float32)
    image = np.random.default_rng(0).random(guide.shape).astype(np.float32)
    energy, gradient = least_squares(image.astype(np.float64), guide.astype(np.float64))
    value, ours = value_and_gradient(image, make_guide(guide))
    assert_allclose(value, energy, rtol=1e-6)
    assert_allclose(ours, gradient, atol=2e-5)


@pytest.mark.parametrize("name", PICTURES)
def test_an_affine_change_of_colors_is_free(name):
    """But for epsilon |a|^2, of which a flat window needs none."""
    guide = PICTURES[name]().astype(np.float32)
    rng = np.random.default_rng(4)
    change, brightness = rng.normal(0, 0.5, (3, 3)), rng.normal(size=3)
    image = (guide @ change + brightness).astype(np.float32)
    value, _ = value_and_gradient(image, make_guide(guide))
    assert value / (10 * 12 * 3) < 1.05 * EPSILON * np.sum(change**2) / 3 + 2e-8


def test_rounding_makes_no_energy_negative():
    """With a ridge so small that all of it is rounding, which has both signs."""

    def energy(picture):
        return affine_energy(picture, make_affine_guide(picture, epsilon=1e-14))

    pictures = np.random.default_rng(0).random((16, 6, 7, 3)).astype(np.float32)
    energies = jax.jit(jax.vmap(energy))(pictures)
    assert (energies >= 0).all() and (energies < 1e-7).all()


def test_a_slowly_changing_affine_change_is_nearly_free():
    picture = photograph().astype(np.float32)
    of_guide = make_guide(picture)

    def energy(image):
        return value_and_gradient(image.astype(np.float32), of_guide)[0] / (10 * 12 * 3)

    gain = np.linspace(0.8, 1.0, 14).reshape(1, 14, 1)
    assert energy(picture * gain) < 3e-4
    assert energy(picture + np.random.default_rng(0).normal(0, 0.05, picture.shape)) > 1e-2
    # An edge that the guide doesn't have.
    assert energy(np.where(gain > 0.9, picture, 1 - picture)) > 1e-2


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 9), (9, 2), (2, 3)])
def test_a_picture_without_windows_has_no_energy(shape):
    picture = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
    guide = make_guide(picture)
    assert guide.affinities.shape == (12, *shape)
    value, gradient = jax.value_and_grad(affine_energy)(1 - picture, guide)
    assert value == 0
    assert_allclose(gradient, np.zeros(picture.shape))


def test_what_lies_beyond_the_border_does_not_matter():
    """There are no such pixels: their affinities are zero, whichever way they lie."""
    affinities = np.asarray(make_guide(PICTURES["noise"]().astype(np.float32)).affinities)
    offsets = [(0, 1), (0, 2), *((y, x) for y in (1, 2) for x in range(-2, 3))]
    rows, columns = np.mgrid[:12, :14]
    for (y, x), values in zip(offsets, affinities, strict=True):
        inside = (rows + y < 12) & (columns + x >= 0) & (columns + x < 14)
        assert_allclose(values[~inside], 0, atol=0)
        assert (values[inside] != 0).all()


@functools.partial(jax.jit, static_argnames="epsilon")
def derivatives(image, guide_image, *, epsilon=EPSILON):
    def energy(image, guide_image):
        return affine_energy(image, make_affine_guide(guide_image, epsilon=epsilon))

    return jax.value_and_grad(energy, argnums=(0, 1))(image, guide_image)


@pytest.mark.slow
def test_derivatives_by_image_and_guide():
    """Against differences along one direction each."""
    pictures = np.random.default_rng(0).random((2, 4, 5, 3))
    step = 1e-5 * np.random.default_rng(1).normal(size=pictures.shape)
    with jax.enable_x64(True):
        _, gradients = derivatives(*pictures, epsilon=1e-2)
    for index in (0, 1):
        only = np.zeros_like(step)
        only[index] = step[index]
        with jax.enable_x64(True):
            after, before = (derivatives(*(pictures + s), epsilon=1e-2)[0] for s in (only, -only))
        difference = float(after) - float(before)
        assert_allclose(difference / 2, np.vdot(gradients[index], step[index]), rtol=1e-6)


@pytest.mark.slow
def test_all_derivatives_are_finite():
    for make_image in PICTURES.values():
        picture = make_image()[5:9, 4:9].astype(np.float32)
        for gradient in derivatives(picture, picture)[1]:
            assert np.isfinite(gradient).all()


def test_a_batch_is_its_single_pictures():
    images, guides = np.random.default_rng(0).random((2, 3, 12, 14, 3)).astype(np.float32)
    of_guides = jax.vmap(make_guide)(guides)
    values, gradients = jax.vmap(value_and_gradient)(images, of_guides)
    for index in range(3):
        guide = AffineGuide(of_guides.affinities[index])
        assert_allclose(guide.affinities, make_guide(guides[index]).affinities, atol=1e-5)
        value, gradient = value_and_gradient(images[index], guide)
        assert_allclose(values[index], value, rtol=1e-5)
        assert_allclose(gradients[index], gradient, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    picture, image = photograph().astype(np.float32), jnp.asarray(PICTURES["noise"](), dtype)
    guide = make_guide(image)
    assert guide.affinities.dtype == jnp.float32
    assert_allclose(guide.affinities, make_guide(image.astype(jnp.float32)).affinities, atol=1e-5)
    value, gradient = value_and_gradient(image, make_guide(picture))
    assert value.dtype == jnp.float32 and gradient.dtype == dtype
    exact, _ = value_and_gradient(image.astype(jnp.float32), make_guide(picture))
    assert_allclose(value, exact, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, -1e-7, float("nan")])
def test_an_epsilon_that_is_not_positive(epsilon):
    with pytest.raises(InputError, match=f"epsilon={epsilon} is not positive; expected a number"):
        make_affine_guide(jnp.zeros((4, 4, 3)), epsilon=epsilon)


def test_a_guide_of_another_size():
    guide = make_affine_guide(jnp.zeros((2, 1, 3)))
    sentence = r"an image of 4 x 5 came with a guide of shape \(12, 2, 1\); expected a guide of"
    with pytest.raises(InputError, match=sentence):
        affine_energy(jnp.zeros((4, 5, 3)), guide)
