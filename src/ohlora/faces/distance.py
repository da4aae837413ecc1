"""Distance to the neutral head, over which hair grows."""

# mypy: disable-error-code="valid-type"
import numpy as np
import warp as wp
from scipy.ndimage import gaussian_filter

from ohlora.faces.regions import EYE_MIDPOINT


@wp.kernel
def _distance(mesh: wp.uint64, points: wp.array(dtype=wp.vec3), out: wp.array(dtype=float)):
    i = wp.tid()
    query = wp.mesh_query_point_sign_normal(mesh, points[i], 1.0)
    if query.result:
        nearest = wp.mesh_eval_position(mesh, query.face, query.u, query.v)
        out[i] = query.sign * wp.length(points[i] - nearest)
    else:
        out[i] = 1.0


class DistanceField:
    """Smoothed signed distance to the neutral head on a grid of 4 mm, with its gradient."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        cell, shape = 0.004, (76, 72, 108)
        origin = EYE_MIDPOINT + np.array([-0.15, -0.06, -0.26], np.float32)
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3) * cell + origin
        mesh = wp.Mesh(wp.array(vertices, dtype=wp.vec3), wp.array(triangles.ravel(), dtype=wp.int32))
        out = np.empty(len(grid), np.float32)
        wp.launch(_distance, len(grid), [mesh.id, grid.astype(np.float32), out])
        distance = gaussian_filter(out.reshape(shape), 1.0)
        field = np.concatenate([np.stack(np.gradient(distance, cell), -1), distance[..., None]], -1)
        self.values = field.astype(np.float32)
        self.origin = wp.vec3(*map(float, origin))
        self.cells_per_metre = 1 / cell
