"""Regions of the images, each painted in the style of its own part of the styles.

`labels` reads painted masks, `segmentation` splits images without masks, `matching` says which
part of the content takes which part of the styles, and `memberships` is what comes of it.
"""
