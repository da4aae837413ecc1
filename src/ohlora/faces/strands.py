"""Warp kernels for strands (hair, brows, lashes, beard, rims of glasses): growth, shadow, light and drawing."""

# mypy: disable-error-code="valid-type, misc"
import warp as wp

from ohlora.faces.raster import visibility

GAP = 2  # pixels between a place that is looked up and the end of the piece of a strand it stands for


@wp.func
def _sample(field: wp.array3d(dtype=wp.vec4), origin: wp.vec3, cells_per_metre: float, p: wp.vec3) -> wp.vec4:
    """Trilinear gradient (xyz) and distance (w) at p, clamped to the field."""
    q = (p - origin) * cells_per_metre
    x = wp.clamp(q[0], 0.0, float(field.shape[0]) - 1.001)
    y = wp.clamp(q[1], 0.0, float(field.shape[1]) - 1.001)
    z = wp.clamp(q[2], 0.0, float(field.shape[2]) - 1.001)
    i = int(x)
    j = int(y)
    k = int(z)
    u = x - float(i)
    v = y - float(j)
    w = z - float(k)
    low = (field[i, j, k] * (1.0 - u) + field[i + 1, j, k] * u) * (1.0 - v)
    low += (field[i, j + 1, k] * (1.0 - u) + field[i + 1, j + 1, k] * u) * v
    high = (field[i, j, k + 1] * (1.0 - u) + field[i + 1, j, k + 1] * u) * (1.0 - v)
    high += (field[i, j + 1, k + 1] * (1.0 - u) + field[i + 1, j + 1, k + 1] * u) * v
    return low * (1.0 - w) + high * w


@wp.func
def _part_curtain(p: wp.vec3, side: float, eyes: wp.vec3) -> wp.vec3:
    """Moves a point of long hair outwards, off the face; |side| is how far (m) at the height of the mouth."""
    r = p - eyes
    if side == 0.0 or r[1] > 0.045 or r[2] > 0.075:
        return p
    limit = wp.clamp((0.075 - r[2]) / 0.055, 0.0, 1.0) * wp.abs(side) * wp.clamp((0.045 - r[1]) / 0.03, 0.0, 1.0)
    sign = wp.sign(side)
    if r[0] * sign >= limit:
        return p
    return wp.vec3(p[0] + sign * wp.min(limit - r[0] * sign, 0.012), p[1] + 0.002, p[2])


@wp.kernel
def grow(
    roots: wp.array(dtype=wp.vec3),
    first: wp.array(dtype=wp.vec3),
    flow: wp.array(dtype=wp.vec3),
    length: wp.array(dtype=float),
    standoff: wp.array(dtype=float),
    side: wp.array(dtype=float),
    gravity: float,
    stiffness: float,
    flow_gain: float,
    attraction: float,
    field: wp.array3d(dtype=wp.vec4),
    origin: wp.vec3,
    cells_per_metre: float,
    eyes: wp.vec3,
    out: wp.array2d(dtype=wp.vec3),
):
    """Launch over strands. Grows out (S, P) from the roots over the head's distance field, metres, neutral head."""
    s = wp.tid()
    p = roots[s]
    d = first[s]
    n_points = out.shape[1]
    step = length[s] / float(n_points - 1)
    out[s, 0] = p
    for k in range(1, n_points):
        grown = float(k) * step
        d = wp.normalize(d * stiffness + flow[s] * (flow_gain * wp.exp(-grown / 0.05)) + wp.vec3(0.0, 0.0, -gravity))
        q = p + d * step
        at = _sample(field, origin, cells_per_metre, q)
        outwards = wp.normalize(wp.vec3(at[0], at[1], at[2]) + wp.vec3(1.0e-6, 0.0, 0.0))
        least = standoff[s] * wp.min(1.0, 0.25 + grown / 0.04)
        if at[3] < least:
            q = q + outwards * (least - at[3])
        else:
            q = q - outwards * wp.min((at[3] - least) * attraction, 0.5 * step)
        d = wp.normalize(q - p)
        q = _part_curtain(q, side[s], eyes)
        p = p + wp.normalize(q - p + wp.vec3(0.0, 0.0, -1.0e-6)) * step
        out[s, k] = p


@wp.func
def _unit(v: wp.vec3) -> wp.vec3:
    return v / (wp.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]) + 1.0e-12)


@wp.func
def _cross(a: wp.vec3, b: wp.vec3) -> wp.vec3:
    return wp.vec3(a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


@wp.func
def _tangent(points: wp.array2d(dtype=wp.vec3), s: int, k: int) -> wp.vec3:
    """Unit vector along strand s at its point k."""
    return _unit(points[s, wp.min(k + 1, points.shape[1] - 1)] - points[s, wp.max(k - 1, 0)])


@wp.kernel
def measure_strands(points: wp.array2d(dtype=wp.vec3), out: wp.array2d(dtype=float)):
    """Launch over strands: the length (S, P) from the root to each point."""
    s = wp.tid()
    length = float(0.0)
    out[s, 0] = length
    for k in range(1, points.shape[1]):
        d = points[s, k] - points[s, k - 1]
        length += wp.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        out[s, k] = length


@wp.kernel
def wind_strands(
    points: wp.array2d(dtype=wp.vec3),
    across: wp.array2d(dtype=float),
    up: wp.array2d(dtype=float),
    out: wp.array2d(dtype=wp.vec3),
):
    """Launch over strands and points: moves each point across and up (S, P), both at right angles to the strand."""
    s, k = wp.tid()
    along = _tangent(points, s, k)
    sideways = _unit(_cross(along, wp.vec3(0.3, 1.0, 0.0)))
    out[s, k] = points[s, k] + sideways * across[s, k] + _cross(along, sideways) * up[s, k]


@wp.kernel
def shadow_strands(
    points: wp.array2d(dtype=wp.vec3),
    views: wp.array(dtype=wp.mat33),
    offsets: wp.array(dtype=wp.vec3),
    every: int,
    depth: wp.array3d(dtype=float),
):
    """Launch with one thread per light: every n-th strand into its shadow map."""
    light = wp.tid()
    size = depth.shape[1]
    for s in range(0, points.shape[0], every):
        p = views[light] * points[s, 0] + offsets[light]
        for k in range(1, points.shape[1]):
            q = views[light] * points[s, k] + offsets[light]
            d = q - p
            n = int(wp.max(wp.abs(d[0]), wp.abs(d[1]))) + 1
            for i in range(n):
                r = p + d * ((float(i) + 0.5) / float(n))
                x = int(r[0])
                y = int(r[1])
                if x >= 0 and y >= 0 and x < size and y < size:
                    if r[2] < depth[light, y, x]:  # warp's `and` would read it outside of the map, too
                        depth[light, y, x] = r[2]
            p = q


@wp.func
def _lobe(cosine: float, least: float, exponent: float) -> float:
    """cosine ** exponent above `least`, else 0; what rounding has put above 1 is cut."""
    if cosine <= least:
        return 0.0
    return wp.exp(exponent * wp.log(wp.min(cosine, 1.0)))


@wp.kernel
def light_strands(
    wanted: wp.array2d(dtype=wp.uint8),
    points: wp.array2d(dtype=wp.vec3),
    albedo: wp.array2d(dtype=wp.vec3),
    shift: wp.array(dtype=float),
    views: wp.array(dtype=wp.mat33),
    offsets: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    colours: wp.array(dtype=wp.vec3),
    depth: wp.array3d(dtype=float),
    softness: float,
    gloss: wp.vec4,
    out: wp.array2d(dtype=wp.vec3),
):
    """Launch over strands and points: Kajiya and Kay (1989) and a coloured highlight; the camera looks along +y.

    gloss: strength of the white and of the coloured highlight, then their exponents.
    """
    s, k = wp.tid()
    if wanted[s, k] == wp.uint8(0):
        return
    t = _tangent(points, s, k)
    tv = -t[1]
    sv = wp.sqrt(wp.max(0.0, 1.0 - tv * tv))
    diffuse = wp.vec3(0.0, 0.0, 0.0)
    highlight = wp.vec3(0.0, 0.0, 0.0)
    for light in range(directions.shape[0]):
        if colours[light][1] > 0.02:
            seen = visibility(views[light] * points[s, k] + offsets[light], depth, light, softness, 0.002)
            if seen > 0.01:
                tl = wp.clamp(wp.dot(t, directions[light]) + shift[s], -1.0, 1.0)
                sl = wp.sqrt(1.0 - tl * tl)
                c = colours[light] * seen
                diffuse += c * (0.25 + 0.75 * sl * (0.6 - 0.4 * directions[light][1]))
                white = _lobe(sl * sv - tl * tv, 0.9, gloss[2])
                tinted = _lobe(sl * sv - (tl + 0.18) * tv, 0.75, gloss[3])
                highlight += c * (gloss[0] * white)
                highlight += wp.cw_mul(c, albedo[s, k]) * (gloss[1] * tinted)
    out[s, k] = wp.cw_mul(diffuse, albedo[s, k]) + highlight


@wp.func
def _steps(d: wp.vec3) -> int:
    """Places at which a piece d of a strand is drawn, about one a pixel."""
    return int(wp.max(wp.abs(d[0]), wp.abs(d[1]))) + 1


@wp.func
def _in_sight(p: wp.vec3, d: wp.vec3, far: wp.array2d(dtype=float), reach: float) -> bool:
    """Whether a piece p .. p + d of a strand may show: not if it is covered or outside of the picture."""
    size = far.shape[0]
    end = float(size) + reach
    nearest = wp.min(p[2], p[2] + d[2])
    n = _steps(d) // (2 * GAP) + 1
    for i in range(n):
        t = (float(i) + 0.5) / float(n)
        x = p[0] + d[0] * t
        y = p[1] + d[1] * t
        if x >= -reach and y >= -reach and x <= end and y <= end:
            if nearest < far[wp.clamp(int(y), 0, size - 1), wp.clamp(int(x), 0, size - 1)]:
                return True
    return False


@wp.kernel
def find_in_sight(
    points: wp.array2d(dtype=wp.vec3),
    far: wp.array2d(dtype=float),
    reach: float,
    out: wp.array2d(dtype=wp.uint8),
):
    """Launch over strands: sets out (S, K) to 1 for the colours that `draw_strands` will use, arguments as there."""
    s = wp.tid()
    spacing = float(out.shape[1] - 1) / float(points.shape[1] - 1)
    for k in range(1, points.shape[1]):
        p = points[s, k - 1]
        d = points[s, k] - p
        if _in_sight(p, d, far, reach):
            n = _steps(d)
            first = (float(k - 1) + 0.5 / float(n)) * spacing
            last = (float(k - 1) + (float(n - 1) + 0.5) / float(n)) * spacing
            for key in range(int(first), wp.min(int(last), out.shape[1] - 2) + 2):
                out[s, key] = wp.uint8(1)


@wp.kernel
def draw_strands(
    points: wp.array2d(dtype=wp.vec3),
    colours: wp.array2d(dtype=wp.vec3),
    widths: wp.array(dtype=float),
    opacity: float,
    write_depth: int,
    class_id: int,
    far: wp.array2d(dtype=float),
    reach: float,
    bias: float,
    depth: wp.array2d(dtype=float),
    image: wp.array2d(dtype=wp.vec3),
    class_map: wp.array2d(dtype=wp.int32),
):
    """Launch with dim 1. Blends strands (S, P) of x px, y px, depth; colours (S, K), 2 <= K <= P, are spread evenly.

    `far` only saves time: the farthest depth at which a strand would show on a pixel within `reach` pixels.
    """
    size = depth.shape[0]
    spacing = float(colours.shape[1] - 1) / float(points.shape[1] - 1)
    for s in range(points.shape[0]):
        for k in range(1, points.shape[1]):
            p = points[s, k - 1]
            d = points[s, k] - p
            if _in_sight(p, d, far, reach):
                n = _steps(d)
                flat = wp.abs(d[0]) > wp.abs(d[1])
                for i in range(n):
                    t = (float(i) + 0.5) / float(n)
                    r = p + d * t
                    half = 0.5 * (widths[k - 1] * (1.0 - t) + widths[k] * t)
                    low = (r[1] if flat else r[0]) - half
                    high = (r[1] if flat else r[0]) + half
                    along = int(r[0]) if flat else int(r[1])
                    if along >= 0 and along < size:
                        for j in range(wp.max(int(wp.floor(low)), 0), wp.min(int(wp.floor(high)), size - 1) + 1):
                            x = along if flat else j
                            y = j if flat else along
                            cover = wp.min(high, float(j) + 1.0) - wp.max(low, float(j))
                            if cover > 0.02 and r[2] - bias < depth[y, x]:
                                place = (float(k - 1) + t) * spacing
                                key = wp.min(int(place), colours.shape[1] - 2)
                                c = wp.lerp(colours[s, key], colours[s, key + 1], place - float(key))
                                a = wp.min(cover, 1.0) * opacity
                                image[y, x] = image[y, x] * (1.0 - a) + c * a
                                if write_depth == 1 and a > 0.45:
                                    depth[y, x] = r[2]
                                if class_id >= 0 and cover > 0.3:
                                    class_map[y, x] = class_id
