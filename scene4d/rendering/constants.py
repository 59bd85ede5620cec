"""Constants of Gaussian splatting that every rasterizer here shares with gsplat 1.5.

numba compiles them in; after a change, delete the `__pycache__` folder beside this file.
"""

ALPHA_THRESHOLD = 1.0 / 255.0  # fainter contributions are skipped
ALPHA_MAX = 0.999  # opacity of one splat at one pixel is clamped to this
TRANSMITTANCE_MIN = 1e-4  # a pixel stops before the splat that would bring it to this or below
FOV_MARGIN = 0.3  # the projection's Jacobian is taken at x/z clamped to the field of view plus 30%
EXTENT_MAX = 3.33  # standard deviations; at opacity 1 alpha falls below the threshold at 3.329
DEPTH_ALPHA_MIN = 1e-10  # expected depth is divided by at least this alpha
