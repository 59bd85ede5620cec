// Drawing with WebGL2: one quad a splat, sorted on the CPU, blended back to front with premultiplied alpha.

const vertexShader = `#version 300 es
precision highp float;
precision highp int;
uniform highp usampler2D positions;    // 16 bits between low and high
uniform highp sampler2D scales;
uniform highp isampler2D quats;        // wxyz
uniform highp sampler2D colors;        // with opacity
uniform vec3 low, high;
uniform float grow;                    // multiplies all areas
uniform vec4 view[3];                  // rows of world-to-camera
uniform vec4 lens;                     // fx, fy, cx, cy
uniform vec2 size;
uniform float eps;
in vec2 corner;
in uint index;
out vec2 offset;
flat out vec4 conicOpacity;
flat out vec3 color;
mat3 rotation(vec4 q) {
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}
void main() {
  int wide = textureSize(positions, 0).x;
  ivec2 at = ivec2(int(index) % wide, int(index) / wide);
  vec4 mean = vec4(low + vec3(texelFetch(positions, at, 0).xyz) / 65535.0 * (high - low), 1.0);
  vec4 rgba = texelFetch(colors, at, 0);
  vec3 s = texelFetch(scales, at, 0).xyz;
  mat3 axes = rotation(normalize(vec4(texelFetch(quats, at, 0))));
  axes = mat3(axes[0] * s.x, axes[1] * s.y, axes[2] * s.z);
  mat3 cov = grow * axes * transpose(axes);
  vec3 p = vec3(dot(view[0], mean), dot(view[1], mean), dot(view[2], mean));
  vec2 focal = lens.xy, centre = lens.zw, margin = 0.15 * size / focal;
  vec2 slope = clamp(p.xy / p.z, -centre / focal - margin, (size - centre) / focal + margin);
  vec3 a = focal.x / p.z * (view[0].xyz - slope.x * view[2].xyz);
  vec3 b = focal.y / p.z * (view[1].xyz - slope.y * view[2].xyz);
  float xx = dot(a, cov * a) + eps, xy = dot(a, cov * b), yy = dot(b, cov * b) + eps;
  float determinant = xx * yy - xy * xy, opacity = rgba.w;
  float level = 2.0 * log(opacity * 255.0);
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  if (!(determinant > 0.0) || !(level >= 0.0)) return;
  float middle = 0.5 * (xx + yy), spread = length(vec2(0.5 * (xx - yy), xy));
  float large = middle + spread, small = max(middle - spread, determinant / large);
  vec2 axis = abs(xy) > 1e-9 * large ? normalize(vec2(xy, large - xx)) : (xx >= yy ? vec2(1, 0) : vec2(0, 1));
  vec2 reach = sqrt(level * vec2(large, small)) + 0.5;
  offset = corner.x * reach.x * axis + corner.y * reach.y * vec2(-axis.y, axis.x);
  vec2 pixel = focal * (p.xy / p.z) + centre + offset;
  gl_Position = vec4(pixel / size * vec2(2.0, -2.0) + vec2(-1.0, 1.0), 0.0, 1.0);
  conicOpacity = vec4(vec3(yy, -xy, xx) / determinant, opacity);
  color = rgba.xyz;
}`;

const fragmentShader = `#version 300 es
precision highp float;
in vec2 offset;
flat in vec4 conicOpacity;
flat in vec3 color;
out vec4 result;
void main() {
  vec3 conic = conicOpacity.xyz;
  float sigma = 0.5 * (conic.x * offset.x * offset.x + conic.z * offset.y * offset.y) + conic.y * offset.x * offset.y;
  float alpha = min(0.999, conicOpacity.w * exp(-sigma));
  if (sigma < 0.0 || alpha < 1.0 / 255.0) discard;
  result = vec4(color * alpha, alpha);
}`;

function compileProgram(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertexShader], [gl.FRAGMENT_SHADER, fragmentShader]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, "corner");
  gl.bindAttribLocation(program, 1, "index");
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  return program;
}

/** The planes of a frame as textures, just as they are stored; the last row is padded. */
function uploadFrame(gl, frame) {
  const wide = 1024, rows = Math.max(1, Math.ceil(frame.count / wide)), size = wide * rows;
  const upload = (plane, channels, internal, format, type) => {
    const texels = new plane.constructor(channels * size), texture = gl.createTexture();
    texels.set(plane);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, wide, rows, 0, format, type, texels);
    for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
    return texture;
  };
  return [
    upload(frame.grid, 3, gl.RGB16UI, gl.RGB_INTEGER, gl.UNSIGNED_SHORT),
    upload(frame.halves, 3, gl.RGB16F, gl.RGB, gl.HALF_FLOAT),
    upload(frame.quats, 4, gl.RGBA16I, gl.RGBA_INTEGER, gl.SHORT),
    upload(frame.rgba, 4, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE),
  ];
}

function prepareCorners(gl) {
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
  gl.enableVertexAttribArray(1);
  gl.vertexAttribDivisor(1, 1);
}

/** Binds the indices of a frame, farthest first; they are sent again only where the order has changed. */
function bindOrder(gl, frame, order) {
  frame.buffer ??= gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, frame.buffer);
  if (frame.sent !== order) gl.bufferData(gl.ARRAY_BUFFER, order.slice().reverse(), gl.DYNAMIC_DRAW);
  frame.sent = order;
  gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_INT, 0, 0);
}

/** A renderer, or null where WebGL2 is missing or broken. */
function createWebglRenderer(canvas) {
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, preserveDrawingBuffer: true });
  if (!gl) return null;
  const program = compileProgram(gl), planes = ["positions", "scales", "quats", "colors"];
  const uniform = Object.fromEntries(["view", "lens", "size", "eps", "low", "high", "grow", ...planes].map((name) => [name, gl.getUniformLocation(program, name)]));
  const textures = new Map();
  gl.useProgram(program);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  planes.forEach((name, unit) => gl.uniform1i(uniform[name], unit));
  gl.uniform3fv(uniform.low, meta.low);
  gl.uniform3fv(uniform.high, meta.high);
  prepareCorners(gl);
  gl.disable(gl.DITHER);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const details = gl.getExtension("WEBGL_debug_renderer_info");
  const driver = details ? gl.getParameter(details.UNMASKED_RENDERER_WEBGL) : "";
  return {
    name: "WebGL2", slow: /swiftshader|llvmpipe|software|basic render/i.test(driver),
    prepare(frame) {
      if (!textures.has(frame.index)) textures.set(frame.index, uploadFrame(gl, frame));
    },
    draw(frame, view, lens, eps, moving, stride) {
      this.prepare(frame);
      textures.get(frame.index).forEach((texture, unit) => {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(gl.TEXTURE_2D, texture);
      });
      const order = sortByDepth(frame, view, moving, stride);
      bindOrder(gl, frame, order);
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(...meta.background, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform4fv(uniform.view, view);
      gl.uniform4f(uniform.lens, lens.fx, lens.fy, lens.cx, lens.cy);
      gl.uniform2f(uniform.size, canvas.width, canvas.height);
      gl.uniform1f(uniform.eps, eps);
      gl.uniform1f(uniform.grow, stride);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, order.length);
      if (this.slow) gl.finish(); // emulated: drawMs must hold the drawing
    },
  };
}
