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
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text).buffer;
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

/** One timestep: its planes as they are stored (see quantization.py), and positions in scene units, for sorting. */
function decodeFrame(index) {
  const count = meta.counts[index], element = document.getElementById(`frame-${index}`);
  const buffer = decodeBase64(element.textContent);
  element.remove(); // its text is no longer needed
  if (buffer.byteLength !== 24 * count) throw new Error(`timestep ${index} of this file is damaged`);
  const grid = new Uint16Array(buffer, 0, 3 * count), halves = new Uint16Array(buffer, 6 * count, 3 * count);
  const quats = new Int16Array(buffer, 12 * count, 4 * count), rgba = new Uint8Array(buffer, 20 * count, 4 * count);
  const positions = new Float32Array(3 * count), low = meta.low;
  const step = low.map((x, k) => (meta.high[k] - x) / 65535);
  for (let i = 0; i < 3 * count; i += 3) {
    positions[i] = low[0] + grid[i] * step[0];
    positions[i + 1] = low[1] + grid[i + 1] * step[1];
    positions[i + 2] = low[2] + grid[i + 2] * step[2];
  }
  return { index, count, positions, grid, halves, quats, rgba, order: null, sortedFor: null, stride: 1 };
}

/** Covariances of a frame, six numbers a Gaussian, for drawing without a GPU. */
function covariancesOf(frame) {
  if (!frame.covariances) {
    const { halves, quats } = frame;
    frame.covariances = new Float32Array(6 * frame.count);
    for (let i = 0; i < frame.count; i++)
      fillCovariance(frame.covariances, i, quats[4 * i], quats[4 * i + 1], quats[4 * i + 2], quats[4 * i + 3],
        halfValues[halves[3 * i]], halfValues[halves[3 * i + 1]], halfValues[halves[3 * i + 2]]);
  }
  return frame.covariances;
}

const decodedFrames = new Map();
function getFrame(index) {
  if (!decodedFrames.has(index)) decodedFrames.set(index, decodeFrame(index));
  return decodedFrames.get(index);
}

const STILL = 0.01; // change of the viewing direction below which a moving picture keeps its order
const sorting = { depths: new Float32Array(0), kept: new Uint32Array(0), starts: new Uint32Array(65537), ms: 0 };

/**
 * Indices of a frame's Gaussians in front of the camera, nearest first. The order is kept until the camera moves; while
 * it moves (`moving`), small turns keep it, too. `stride` k takes one in k Gaussians.
 */
function sortByDepth(frame, view, moving = false, stride = 1) {
  const last = frame.sortedFor;
  if (last && frame.stride === stride) {
    let change = 0;
    for (let k = 8; k < 12; k++) change = Math.max(change, Math.abs(view[k] - last[k]) / (k < 11 ? 1 : camera.distance()));
    if (change === 0 || (moving && change < STILL)) return frame.order;
  }
  const began = performance.now();
  frame.order = countingSort(frame, view, stride);
  [frame.sortedFor, frame.stride] = [view, stride];
  sorting.ms = 0.8 * sorting.ms + 0.2 * (performance.now() - began);
  return frame.order;
}

/** Counting sort on 16-bit depth. */
function countingSort(frame, view, stride) {
  if (sorting.depths.length < frame.count)
    [sorting.depths, sorting.kept] = [new Float32Array(frame.count), new Uint32Array(frame.count)];
  const { depths, kept, starts } = sorting, p = frame.positions;
  let visible = 0, nearest = Infinity, farthest = -Infinity;
  for (let i = 0; i < frame.count; i += stride) {
    const z = view[8] * p[3 * i] + view[9] * p[3 * i + 1] + view[10] * p[3 * i + 2] + view[11];
    if (!(z > 0.01)) continue;
    depths[visible] = z;
    kept[visible++] = i;
    if (z < nearest) nearest = z;
    if (z > farthest) farthest = z;
  }
  const scale = 65535 / Math.max(farthest - nearest, 1e-12);
  starts.fill(0);
  for (let k = 0; k < visible; k++) starts[((depths[k] - nearest) * scale | 0) + 1]++;
  for (let bin = 0; bin < 65536; bin++) starts[bin + 1] += starts[bin];
  const order = new Uint32Array(visible);
  for (let k = 0; k < visible; k++) order[starts[(depths[k] - nearest) * scale | 0]++] = kept[k];
  return order;
}
