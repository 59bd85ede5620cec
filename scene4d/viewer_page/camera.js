// The viewing camera: a pose (OpenCV axes), a pivot to turn around, and the focal lengths of an input camera.

const vec = {
  add: (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]],
  dot: (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2],
  unit: (a) => { const n = Math.hypot(...a) || 1; return [a[0] / n, a[1] / n, a[2] / n]; },
};

/** Turns vector v around a unit axis (Rodrigues). */
function turn(v, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), along = vec.dot(axis, v) * (1 - c);
  const cross = [axis[1] * v[2] - axis[2] * v[1], axis[2] * v[0] - axis[0] * v[2], axis[0] * v[1] - axis[1] * v[0]];
  return [0, 1, 2].map((i) => v[i] * c + cross[i] * s + axis[i] * along);
}

/** Centre of the first timestep, weighted by opacity. */
function sceneCentre() {
  const frame = getFrame(0), sum = [0, 0, 0];
  let total = 1e-9;
  for (let i = 0; i < frame.count; i++) {
    const weight = frame.rgba[4 * i + 3];
    total += weight;
    for (let k = 0; k < 3; k++) sum[k] += weight * frame.positions[3 * i + k];
  }
  return sum.map((x) => x / total);
}

const camera = {
  right: [1, 0, 0], down: [0, 1, 0], forward: [0, 0, 1], position: [0, 0, 0], pivot: [0, 0, 1],
  intrinsics: meta.cameras[0].intrinsics,

  /** Takes the pose and lens of input camera `index`; the pivot is on its axis, at the scene's depth. */
  jumpTo(index) {
    const { c2w, intrinsics } = meta.cameras[index];
    const column = (k) => [c2w[0][k], c2w[1][k], c2w[2][k]];
    [this.right, this.down, this.forward, this.position] = [0, 1, 2, 3].map(column);
    this.intrinsics = intrinsics;
    const depth = vec.dot(vec.add(sceneCentre(), this.position, -1), this.forward);
    this.pivot = vec.add(this.position, this.forward, depth > 0.05 ? depth : 1);
  },

  distance() {
    return Math.hypot(...vec.add(this.pivot, this.position, -1));
  },

  /** Turns around the pivot: up and down about the camera's x axis, then sideways about the scene's vertical. */
  orbit(sideways, upwards) {
    const steep = vec.dot(turn(this.forward, this.right, upwards), this.vertical);
    if (Math.abs(steep) > 0.995 && Math.abs(steep) > Math.abs(vec.dot(this.forward, this.vertical))) upwards = 0;
    const apply = (v) => turn(turn(v, this.right, upwards), this.vertical, sideways);
    const offset = vec.add(this.position, this.pivot, -1);
    [this.position, this.forward, this.down, this.right] = [
      vec.add(this.pivot, apply(offset)), ...[this.forward, this.down, this.right].map((v) => vec.unit(apply(v))),
    ];
  },

  /** Moves sideways and down, in scene units, so that the scene follows the hand. */
  pan(dx, dy) {
    for (const name of ["position", "pivot"])
      this[name] = vec.add(vec.add(this[name], this.right, -dx), this.down, -dy);
  },

  zoom(factor) {
    const offset = vec.add(this.position, this.pivot, -1);
    this.position = vec.add(this.pivot, offset, factor);
  },

  /** World to camera, three rows of four. */
  view() {
    return new Float32Array([this.right, this.down, this.forward].flatMap((axis) => [...axis, -vec.dot(axis, this.position)]));
  },

  /** Lens for a picture of width x height in which the input image fits, centred. */
  lens(width, height) {
    const [imageHeight, imageWidth] = meta.imageSize, K = this.intrinsics;
    const scale = Math.min(width / imageWidth, height / imageHeight);
    return {
      fx: K[0][0] * scale, fy: K[1][1] * scale, scale,
      cx: width / 2 + (K[0][2] - imageWidth / 2) * scale, cy: height / 2 + (K[1][2] - imageHeight / 2) * scale,
    };
  },
};

// The scene's vertical is the mean of the input cameras' downward axes.
camera.vertical = vec.unit(meta.cameras.reduce((sum, c) => vec.add(sum, [c.c2w[0][1], c.c2w[1][1], c.c2w[2][1]]), [0, 0, 0]));
camera.jumpTo(0);
