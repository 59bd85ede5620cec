// The input cameras as small pyramids over the picture.

const frustumDepth = 0.09 * camera.distance();

/** Corners of the picture of an input camera in the scene, and its centre last. */
function frustum({ c2w, intrinsics: K }) {
  const [height, width] = meta.imageSize, column = (k) => [c2w[0][k], c2w[1][k], c2w[2][k]];
  const at = (u, v) => [(u - K[0][2]) / K[0][0], (v - K[1][2]) / K[1][1], 1].reduce(
    (sum, x, k) => vec.add(sum, column(k), x * frustumDepth), column(3));
  return [at(0, 0), at(width, 0), at(width, height), at(0, height), column(3)];
}

/** Draws all input cameras but the one that is looked through; `active` null draws none. */
function drawCameras(overlay, active) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(overlay.clientWidth * ratio), height = Math.round(overlay.clientHeight * ratio);
  if (overlay.width !== width || overlay.height !== height) [overlay.width, overlay.height] = [width, height];
  const context = overlay.getContext("2d"), view = camera.view(), lens = camera.lens(width, height);
  context.clearRect(0, 0, width, height);
  if (active === null) return;
  [context.lineWidth, context.strokeStyle, context.fillStyle] = [1.5 * ratio, "rgba(36, 99, 235, .75)", "rgba(36, 99, 235, .9)"];
  context.font = `${12 * ratio}px system-ui, sans-serif`;
  meta.cameras.forEach((one, index) => {
    if (index === active) return;
    const points = frustum(one).map((p) => [0, 4, 8].map((k) => vec.dot(view.slice(k, k + 3), p) + view[k + 3]));
    if (points.some((p) => p[2] < 0.1 * frustumDepth)) return; // behind the viewer, in part or whole
    const pixels = points.map((p) => [lens.fx * p[0] / p[2] + lens.cx, lens.fy * p[1] / p[2] + lens.cy]);
    context.beginPath();
    for (let k = 0; k < 4; k++)
      for (const end of [pixels[(k + 1) % 4], pixels[4]]) { context.moveTo(...pixels[k]); context.lineTo(...end); }
    context.stroke();
    context.fillText(index + 1, pixels[4][0] + 4 * ratio, pixels[4][1]);
  });
}
