"""Receptive fields: which pixels a position of a layer depends on."""

from typing import NamedTuple


class Reach(NamedTuple):
    """Receptive field of a layer, along either side.

    Position i depends on the pixels stride * i - before ... stride * i + after; beyond the image's
    border these are padding.

    Attributes:
      stride: pixels between neighboring positions.
      before: extent before the pixel stride * i.
      after: extent behind that pixel; negative in a layer that only adds padding.
    """

    stride: int = 1
    before: int = 0
    after: int = 0

    def pad(self, margin: int) -> "Reach":
        """Return the receptive field after padding a layer by `margin` positions."""
        pixels = margin * self.stride
        return Reach(self.stride, self.before + pixels, self.after - pixels)

    def slide(self, size: int, *, stride: int = 1, margin: int = 0) -> "Reach":
        """Return the receptive field after a convolution or pooling.

        Args:
          size: side of the window, in positions.
          stride: step between the windows, in positions.
          margin: padding before the operation, in positions.
        """
        padded = self.pad(margin)
        after = padded.after + (size - 1) * self.stride
        return Reach(self.stride * stride, padded.before, after)


PIXELS = Reach()
"""Receptive field of the image itself."""
