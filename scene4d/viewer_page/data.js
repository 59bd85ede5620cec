// The page's data: meta (JSON) and one base64 block of quantised Gaussians a timestep.

const meta = JSON.parse(document.getElementById("meta").textContent);

/** Value of every IEEE half-precision bit pattern. */
const halfValues = (() => {
  const values = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    values[bits] = exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
  }
  return values;
})();

function decodeBase64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

/** Fills covariances[6 i ...] = (xx, xy, xz, yy, yz, zz) of R diag(s^2) R'. */
function fillCovariance(covariances, i, w, x, y, z, sx, sy, sz) {
  const norm = 1 / Math.hypot(w, x, y, z);
  w *= norm; x *= norm; y *= norm; z *= norm;
  const a = (1 - 2 * (y * y + z * z)) * sx, b = 2 * (x * y - w * z) * sy, c = 2 * (x * z + w * y) * sz;
  const d = 2 * (x * y + w * z) * sx, e = (1 - 2 * (x * x + z * z)) * sy, f = 2 * (y * z - w * x) * sz;
  const g = 2 * (x * z - w * y) * sx, h = 2 * (y * z + w * x) * sy, k = (1 - 2 * (x * x + y * y)) * sz;
  covariances[6 * i] = a * a + b * b + c * c;
  covariances[6 * i + 1] = a * d + b * e + c * f;
  covariances[6 * i + 2] = a * g + b * h + c * k;
  covariances[6 * i + 3] = d * d + e * e + f * f;
  covariances[6 * i + 4] = d * g + e * h + f * k;
  covariances[6 * i + 5] = g * g + h * h + k * k;
}

/** One timestep: {count, positions (3), covariances (6), rgba (4 bytes)}. */
function decodeFrame(index) {
  const count = meta.counts[index];
  const buffer = decodeBase64(document.getElementById(`frame-${index}`).textContent);
  if (buffer.byteLength !== 24 * count) throw new Error(`timestep ${index} of this file is damaged`);
  const grid = new Uint16Array(buffer, 0, 3 * count), halves = new Uint16Array(buffer, 6 * count, 3 * count);
  const quats = new Int16Array(buffer, 12 * count, 4 * count), rgba = new Uint8Array(buffer, 20 * count, 4 * count);
  const positions = new Float32Array(3 * count), covariances = new Float32Array(6 * count);
  for (let i = 0; i < count; i++) {
    for (let k = 0; k < 3; k++)
      positions[3 * i + k] = meta.low[k] + (grid[3 * i + k] / 65535) * (meta.high[k] - meta.low[k]);
    fillCovariance(covariances, i, quats[4 * i], quats[4 * i + 1], quats[4 * i + 2], quats[4 * i + 3],
      halfValues[halves[3 * i]], halfValues[halves[3 * i + 1]], halfValues[halves[3 * i + 2]]);
  }
  return { index, count, positions, covariances, rgba };
}

const decodedFrames = new Map();
function getFrame(index) {
  if (!decodedFrames.has(index)) decodedFrames.set(index, decodeFrame(index));
  return decodedFrames.get(index);
}

/** Indices of a frame's Gaussians in front of the camera, nearest first (counting sort on 16-bit depth). */
function sortByDepth(frame, view) {
  const depths = new Float32Array(frame.count), kept = new Uint32Array(frame.count);
  let visible = 0, nearest = Infinity, farthest = -Infinity;
  for (let i = 0; i < frame.count; i++) {
    const p = frame.positions;
    const z = view[8] * p[3 * i] + view[9] * p[3 * i + 1] + view[10] * p[3 * i + 2] + view[11];
    if (!(z > 0.01)) continue;
    depths[visible] = z;
    kept[visible++] = i;
    nearest = Math.min(nearest, z);
    farthest = Math.max(farthest, z);
  }
  const starts = new Uint32Array(65537), scale = 65535 / Math.max(farthest - nearest, 1e-12);
  for (let k = 0; k < visible; k++) starts[((depths[k] - nearest) * scale | 0) + 1]++;
  for (let bin = 0; bin < 65536; bin++) starts[bin + 1] += starts[bin];
  const order = new Uint32Array(visible);
  for (let k = 0; k < visible; k++) order[starts[(depths[k] - nearest) * scale | 0]++] = kept[k];
  return order;
}
