"""Geometry of meshes as plain functions on arrays: subdivision, unit vectors, rotations."""

import numpy as np
import scipy.sparse as sparse


def catmull_clark(quads: np.ndarray, n_vertices: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """One level of Catmull-Clark subdivision (1978) as a matrix.

    Args:
        quads: int (F, 4); several components and open borders are allowed.
        n_vertices: rows of the vertex array; vertices that no quad uses stay where they are.

    Returns:
        float32 matrix (n_vertices + E + F, n_vertices) that takes old vertices to new ones, the old ones first,
        and the new quads (4 F, 4); quads 4 i .. 4 i + 3 are made of quad i.
    """
    n_faces = len(quads)
    ends = np.sort(np.stack([quads, np.roll(quads, -1, 1)], 2).reshape(-1, 2), axis=1)
    edges, edge_of = np.unique(ends, axis=0, return_inverse=True)
    edge_of = edge_of.reshape(n_faces, 4)
    face_points = _average(np.repeat(np.arange(n_faces), 4), quads.ravel(), (n_faces, n_vertices))
    midpoints = _average(np.repeat(np.arange(len(edges)), 2), edges.ravel(), (len(edges), n_vertices))
    faces_at_edge = _average(edge_of.ravel(), np.repeat(np.arange(n_faces), 4), (len(edges), n_faces))
    border = np.bincount(edge_of.ravel(), minlength=len(edges)) != 2
    edge_points = _scale(~border) @ (0.5 * midpoints + 0.5 * (faces_at_edge @ face_points)) + _scale(border) @ midpoints
    vertex_points = _vertex_points(quads, edges, border, face_points, midpoints, n_vertices)
    matrix = sparse.vstack([vertex_points, edge_points, face_points]).tocsr().astype(np.float32)
    edge_ids, face_ids = edge_of + n_vertices, np.arange(n_faces) + n_vertices + len(edges)
    corners = [np.stack([quads[:, k], edge_ids[:, k], face_ids, edge_ids[:, k - 1]], 1) for k in range(4)]
    return matrix, np.stack(corners, 1).reshape(-1, 4).astype(np.int32)


def _average(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Matrix whose row r averages the columns listed with r."""
    count = np.bincount(rows, minlength=shape[0])
    return sparse.csr_matrix((1 / count[rows], (rows, columns)), shape)


def _scale(values: np.ndarray) -> sparse.dia_matrix:
    return sparse.diags(values.astype(float))


def _vertex_points(
    quads: np.ndarray,
    edges: np.ndarray,
    border: np.ndarray,
    face_points: sparse.csr_matrix,
    midpoints: sparse.csr_matrix,
    n_vertices: int,
) -> sparse.csr_matrix:
    shape_edges = (n_vertices, len(edges))
    valence = np.bincount(quads.ravel(), minlength=n_vertices)
    on_border = np.zeros(n_vertices, bool)
    on_border[edges[border].ravel()] = True
    inner, unused = (valence > 0) & ~on_border, valence == 0
    n = np.maximum(valence, 1)
    faces = _average(quads.ravel(), np.repeat(np.arange(len(quads)), 4), (n_vertices, len(quads))) @ face_points
    all_edges = _average(edges.ravel(), np.repeat(np.arange(len(edges)), 2), shape_edges) @ midpoints
    border_edges = _average(edges[border].ravel(), np.repeat(np.flatnonzero(border), 2), shape_edges) @ midpoints
    inside = _scale(inner / n) @ (faces + 2 * all_edges) + _scale(inner * (n - 3) / n)
    return inside + _scale(on_border * 0.5) @ border_edges + _scale(on_border * 0.5 + unused)


def split_quads(quads: np.ndarray) -> np.ndarray:
    """Triangles int32 (2 F, 3); triangles i and F + i are made of quad i."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product over the last axis (several times faster than numpy's)."""
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def shifted(points: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Points (..., P, 3) plus an offset (3,), added to P points at a time (several times faster than one by one)."""
    rows = points.reshape(*points.shape[:-2], -1)
    return (rows + np.tile(offset, points.shape[-2])).reshape(points.shape)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 over the last axis; zero stays zero."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return vectors / (np.sqrt(x * x + y * y + z * z) + 1e-12)[..., None]


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation matrix (3, 3), angles in radians, z up, the face looking along -y.

    yaw > 0 turns the face to the right of the picture, pitch > 0 lifts the chin up, roll > 0 leans the head
    clockwise in the picture.
    """
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return about_y @ about_z @ about_x


def angles(matrix: np.ndarray) -> tuple[float, float, float]:
    """yaw, pitch and roll (radians) of a matrix made by `rotation`."""
    yaw = np.arcsin(np.clip(matrix[1, 0], -1, 1))
    pitch = np.arctan2(matrix[1, 2], matrix[1, 1])
    roll = np.arctan2(-matrix[2, 0], matrix[0, 0])
    return float(yaw), float(pitch), float(roll)


def fit_rotation(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) that best takes points (N, 3) to points (N, 3), means apart (Kabsch 1976)."""
    u, _, vt = np.linalg.svd((source - source.mean(0)).T @ (target - target.mean(0)))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return (u @ flip @ vt).T


def turn(points: np.ndarray, pivot: np.ndarray, matrix: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Points (N, 3) turned about a pivot by the part `share` (N,) in 0..1 of a rotation (Rodrigues' formula)."""
    angle = np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))
    skew = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    axis = unit(skew).astype(np.float32)
    offset = points - pivot
    c, s = np.cos(angle * share)[:, None].astype(np.float32), np.sin(angle * share)[:, None].astype(np.float32)
    along = (offset @ axis)[:, None] * axis
    return pivot + along + (offset - along) * c + cross(np.broadcast_to(axis, offset.shape), offset) * s
