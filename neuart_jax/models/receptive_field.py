"""Which pixels a position of a layer depends on."""

from typing import NamedTuple


class Reach(NamedTuple):
    """Position i of a layer depends on the pixels stride * i - before ... stride * i + after.

    Along each side, for positions that no border is near; what lies beyond a border is padding.

    Attributes:
      stride: pixels between neighboring positions.
      before: pixels ahead of that of the same place.
      after: pixels behind it; negative in a layer that only adds padding.
    """

    stride: int = 1
    before: int = 0
    after: int = 0

    def pad(self, margin: int) -> "Reach":
        """Return the reach after `margin` positions were put around a layer."""
        pixels = margin * self.stride
        return Reach(self.stride, self.before + pixels, self.after - pixels)

    def slide(self, size: int, *, stride: int = 1, margin: int = 0) -> "Reach":
        """Return the reach of what is made of `size` positions each, a convolution or pooling.

        Args:
          size: positions along a side.
          stride: steps between the windows, in positions.
          margin: of padding before it.
        """
        padded = self.pad(margin)
        after = padded.after + (size - 1) * self.stride
        return Reach(self.stride * stride, padded.before, after)


PIXELS = Reach()
"""That of the image itself."""
