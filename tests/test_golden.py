"""Whole runs give the pictures that they gave: to the bit on one machine, nearly so on another.

To the bit is for who changes the package's structure: ``python tests/golden.py FILE`` before and
after. Here, the pictures kept in the repository may be another machine's.
"""

import golden
import numpy as np
import pytest
from numpy.testing import assert_allclose

# Levels of 255 on average. One thread instead of two adds products up in another order, and made
# half of that: steps magnify rounding, most of all fixed ones that begin at noise.
LIMITS = {"demo": 5, "neural-style": 18, "crowsonkb": 5, "gatys2015": 0.5}


@pytest.fixture(scope="module")
def kept():
    with np.load(golden.FILE) as arrays:
        return dict(arrays)


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.CASES)
def test_a_run_gives_the_picture_that_it_gave(name, kept):
    images, losses = golden.collect(name)
    assert_allclose(losses, kept[f"{name} losses"], rtol=0.01)
    assert images.shape == kept[f"{name} images"].shape
    levels = np.abs(np.round(images * 255) - kept[f"{name} images"])
    assert levels.mean() < LIMITS.get(name, 0.05)
