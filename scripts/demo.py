"""Paint a photograph from scikit-image in the style of our own brush strokes.

With ImageNet weights if they can be downloaded, else with fitted ones; a line says which.
"""

import sys
from pathlib import Path

import numpy as np
import skimage.data

from neuart_jax import main
from neuart_jax.io.images import save_image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "output" / "demo"


def run() -> None:
    """Write the photograph to a file and call the command line on it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    photograph = FOLDER / "chelsea.png"
    # Chelsea the cat, by Stefan van der Walt, CC0.
    save_image(photograph, skimage.data.chelsea().astype(np.float32) / 255)
    sys.argv[1:] = [
        f"--content={photograph}",
        f"--style={ROOT / 'docs' / 'images' / 'brush_strokes.png'}",
        f"--output={FOLDER}",
        "--overwrite",
        *sys.argv[1:],
    ]
    main.main()


if __name__ == "__main__":
    run()
