"""Regions: parts of the content that take the style of certain parts of the style images.

`labels` reads painted masks, `segmentation` splits images without masks, `matching` pairs the
regions of the content with those of the styles, `moving` does so for the masks of a clip, and
`memberships` holds the soft masks of the regions.
"""
