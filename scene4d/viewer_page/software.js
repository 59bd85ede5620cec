// Drawing without a GPU: the same compositing as the framework's CPU rasterizer, front to back.

/** Projects Gaussian i: fills out = [px, py, conic a, b, c, radius y], or returns false where it is not drawn. */
function projectSplat(frame, i, view, lens, eps, width, height, out, grow) {
  const p = frame.positions, x = p[3 * i], y = p[3 * i + 1], z = p[3 * i + 2];
  const cx = view[0] * x + view[1] * y + view[2] * z + view[3];
  const cy = view[4] * x + view[5] * y + view[6] * z + view[7];
  const cz = view[8] * x + view[9] * y + view[10] * z + view[11];
  const marginX = (0.15 * width) / lens.fx, marginY = (0.15 * height) / lens.fy;
  const u = Math.min(Math.max(cx / cz, -lens.cx / lens.fx - marginX), (width - lens.cx) / lens.fx + marginX);
  const v = Math.min(Math.max(cy / cz, -lens.cy / lens.fy - marginY), (height - lens.cy) / lens.fy + marginY);
  const jx = lens.fx / cz, jy = lens.fy / cz;
  const a0 = jx * (view[0] - u * view[8]), a1 = jx * (view[1] - u * view[9]), a2 = jx * (view[2] - u * view[10]);
  const b0 = jy * (view[4] - v * view[8]), b1 = jy * (view[5] - v * view[9]), b2 = jy * (view[6] - v * view[10]);
  const C = covariancesOf(frame), o = 6 * i;
  const s0 = C[o] * a0 + C[o + 1] * a1 + C[o + 2] * a2, s1 = C[o + 1] * a0 + C[o + 3] * a1 + C[o + 4] * a2;
  const s2 = C[o + 2] * a0 + C[o + 4] * a1 + C[o + 5] * a2;
  const t0 = C[o] * b0 + C[o + 1] * b1 + C[o + 2] * b2, t1 = C[o + 1] * b0 + C[o + 3] * b1 + C[o + 4] * b2;
  const t2 = C[o + 2] * b0 + C[o + 4] * b1 + C[o + 5] * b2;
  const a = grow * (a0 * s0 + a1 * s1 + a2 * s2) + eps, c = grow * (b0 * t0 + b1 * t1 + b2 * t2) + eps;
  const b = grow * (a0 * t0 + a1 * t1 + a2 * t2), determinant = a * c - b * b;
  const level = 2 * Math.log(frame.rgba[4 * i + 3]);
  if (!(determinant > 0) || !(level >= 0)) return false;
  const radiusX = Math.sqrt(level * a), radiusY = Math.sqrt(level * c);
  const px = lens.fx * (cx / cz) + lens.cx, py = lens.fy * (cy / cz) + lens.cy;
  if (px + radiusX < 0 || px - radiusX > width || py + radiusY < 0 || py - radiusY > height) return false;
  out[0] = px; out[1] = py; out[2] = c / determinant; out[3] = -b / determinant; out[4] = a / determinant;
  out[5] = radiusY; out[6] = level;
  return true;
}

/**
 * Composites one splat into light (r, g, b, remaining transmittance a pixel).
 * Along a row a Gaussian is a product of steps whose ratio is constant: two exponentials a row.
 */
function addSplat(splat, opacity, red, green, blue, light, width, height) {
  const px = splat[0], py = splat[1], a = splat[2], b = splat[3], c = splat[4], radius = splat[5], level = splat[6];
  const lastRow = Math.min(height - 1, Math.floor(py + radius)), ratio = Math.exp(-a);
  for (let y = Math.max(0, Math.floor(py - radius)); y <= lastRow; y++) {
    const dy = py - (y + 0.5), discriminant = b * b * dy * dy - a * (c * dy * dy - level);
    if (discriminant < 0) continue;
    const root = Math.sqrt(discriminant);
    const first = Math.max(0, Math.ceil(px - (root - b * dy) / a - 0.5));
    const last = Math.min(width - 1, Math.floor(px + (root + b * dy) / a - 0.5));
    const dx = px - (first + 0.5);
    let value = opacity * Math.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy);
    let step = Math.exp(a * dx - 0.5 * a + b * dy);
    const end = 4 * (y * width + last);
    for (let at = 4 * (y * width + first); at <= end; at += 4) {
      const remaining = light[at + 3];
      if (remaining > 1e-4) {
        const weight = (value < 0.999 ? value : 0.999) * remaining;
        light[at] += weight * red;
        light[at + 1] += weight * green;
        light[at + 2] += weight * blue;
        light[at + 3] = remaining - weight;
      }
      value *= step;
      step *= ratio;
    }
  }
}

function createSoftwareRenderer(canvas) {
  const context = canvas.getContext("2d");
  const splat = new Float64Array(7);
  let light = new Float32Array(0), picture = null;
  return {
    name: "software", slow: true,
    prepare: covariancesOf,
    /** While something moves, one in `stride` Gaussians is drawn, with `stride` times the area. */
    draw(frame, view, lens, eps, moving, stride) {
      const { width, height } = canvas;
      if (!picture || picture.width !== width || picture.height !== height) {
        picture = context.createImageData(width, height);
        light = new Float32Array(4 * width * height);
      }
      light.fill(0);
      for (let at = 3; at < light.length; at += 4) light[at] = 1;
      for (const i of sortByDepth(frame, view, moving, stride)) {
        if (!projectSplat(frame, i, view, lens, eps, width, height, splat, stride)) continue;
        const rgba = frame.rgba;
        addSplat(splat, rgba[4 * i + 3] / 255, rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2], light, width, height);
      }
      const back = meta.background, bytes = picture.data;
      for (let at = 0; at < light.length; at += 4) {
        for (let k = 0; k < 3; k++) bytes[at + k] = light[at + k] + light[at + 3] * 255 * back[k] + 0.5;
        bytes[at + 3] = 255;
      }
      context.putImageData(picture, 0, 0);
    },
  };
}
