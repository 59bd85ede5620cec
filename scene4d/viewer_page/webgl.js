// Drawing with WebGL2: one quad a splat, sorted on the CPU, blended back to front with premultiplied alpha.

const vertexShader = `#version 300 es
precision highp float;
precision highp int;
uniform highp sampler2D data;          // three texels a Gaussian
uniform vec4 view[3];                  // rows of world-to-camera
uniform vec4 lens;                     // fx, fy, cx, cy
uniform vec2 size;
uniform float eps;
in vec2 corner;
in uint index;
out vec2 offset;
flat out vec4 conicOpacity;
flat out vec3 color;
vec4 texel(uint k) {
  int at = int(index * 3u + k), wide = textureSize(data, 0).x;
  return texelFetch(data, ivec2(at % wide, at / wide), 0);
}
void main() {
  vec4 t0 = texel(0u), t1 = texel(1u), t2 = texel(2u);
  vec4 mean = vec4(t0.xyz, 1.0);
  vec3 p = vec3(dot(view[0], mean), dot(view[1], mean), dot(view[2], mean));
  vec2 focal = lens.xy, centre = lens.zw, margin = 0.15 * size / focal;
  vec2 slope = clamp(p.xy / p.z, -centre / focal - margin, (size - centre) / focal + margin);
  vec3 a = focal.x / p.z * (view[0].xyz - slope.x * view[2].xyz);
  vec3 b = focal.y / p.z * (view[1].xyz - slope.y * view[2].xyz);
  mat3 cov = mat3(t1.x, t1.y, t1.z, t1.y, t1.w, t2.x, t1.z, t2.x, t2.y);
  float xx = dot(a, cov * a) + eps, xy = dot(a, cov * b), yy = dot(b, cov * b) + eps;
  float determinant = xx * yy - xy * xy, opacity = t0.w;
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
  uint packed_ = uint(t2.z);
  color = vec3(packed_ & 255u, (packed_ >> 8) & 255u, packed_ >> 16) / 255.0;
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

/** Three texels a Gaussian: position + opacity, covariance xx xy xz yy, covariance yz zz + packed colour. */
function uploadFrame(gl, frame) {
  const wide = 1536, rows = Math.max(1, Math.ceil((3 * frame.count) / wide)), texels = new Float32Array(4 * wide * rows);
  for (let i = 0, at = 0; i < frame.count; i++, at += 12) {
    texels.set(frame.positions.subarray(3 * i, 3 * i + 3), at);
    texels[at + 3] = frame.rgba[4 * i + 3] / 255;
    texels.set(frame.covariances.subarray(6 * i, 6 * i + 6), at + 4);
    texels[at + 10] = frame.rgba[4 * i] + 256 * frame.rgba[4 * i + 1] + 65536 * frame.rgba[4 * i + 2];
  }
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, wide, rows, 0, gl.RGBA, gl.FLOAT, texels);
  for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
  return texture;
}

function prepareBuffers(gl) {
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
  const indices = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, indices);
  gl.enableVertexAttribArray(1);
  gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_INT, 0, 0);
  gl.vertexAttribDivisor(1, 1);
}

/** A renderer, or null where WebGL2 is missing or broken. */
function createWebglRenderer(canvas) {
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, preserveDrawingBuffer: true });
  if (!gl) return null;
  const program = compileProgram(gl);
  const uniform = Object.fromEntries(["view", "lens", "size", "eps"].map((name) => [name, gl.getUniformLocation(program, name)]));
  const textures = new Map();
  gl.useProgram(program);
  prepareBuffers(gl);
  gl.disable(gl.DITHER);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const details = gl.getExtension("WEBGL_debug_renderer_info");
  const driver = details ? gl.getParameter(details.UNMASKED_RENDERER_WEBGL) : "";
  return {
    name: "WebGL2", slow: /swiftshader|llvmpipe|software|basic render/i.test(driver),
    draw(frame, view, lens, eps) {
      const order = sortByDepth(frame, view).reverse();
      if (!textures.has(frame.index)) textures.set(frame.index, uploadFrame(gl, frame));
      gl.bindTexture(gl.TEXTURE_2D, textures.get(frame.index));
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(...meta.background, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform4fv(uniform.view, view);
      gl.uniform4f(uniform.lens, lens.fx, lens.fy, lens.cx, lens.cy);
      gl.uniform2f(uniform.size, canvas.width, canvas.height);
      gl.uniform1f(uniform.eps, eps);
      gl.bufferData(gl.ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, order.length);
    },
  };
}
