"""Pictures of relevance: red for what speaks for the target, blue for what speaks against it.

`heatmap` and `to_image` need numpy only; `grid` needs Pillow.
"""

from .pictures import grid, heatmap, to_image

__all__ = ["grid", "heatmap", "to_image"]
