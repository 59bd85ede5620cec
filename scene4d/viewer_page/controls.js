// Time, mouse, touch, keyboard, and when to draw.

const element = (id) => document.getElementById(id);
const LEAST_LOW_PASS = 0.01; // pixels^2 of the screen

/** WebGL2 on a GPU; in software where it is missing or itself emulated, which is slower than our own code. */
function createRenderer() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("renderer"); // #renderer=webgl or software
  if (wanted !== "software") {
    try {
      const renderer = createWebglRenderer(element("canvas"));
      if (renderer && (!renderer.slow || wanted === "webgl")) return renderer;
    } catch (error) {
      console.warn(`WebGL2 failed, drawing in software: ${error}`);
    }
  }
  const canvas = element("canvas"), fresh = canvas.cloneNode(); // a canvas keeps its first context's kind
  canvas.replaceWith(fresh);
  return createSoftwareRenderer(fresh);
}

const renderer = createRenderer();
const canvas = element("canvas");
const state = {
  time: 0, playing: false, orbiting: false, dirty: true, moved: 0, clock: 0, drawMs: 0, shownFps: 0, stride: 1, loaded: 0,
  showCameras: true, active: 0,
};
while (renderer.slow && Math.max(...meta.counts) / state.stride > 25000) state.stride *= 2; // a first guess
const SLOW_MS = 90, QUICK_MS = 35; // a slow machine draws fewer Gaussians while something moves, to stay between them

/** Size of the drawing: at most `sharpness` pixels an input pixel, less while something moves on a slow machine. */
function resize(moving) {
  const ratio = window.devicePixelRatio || 1;
  const [imageHeight, imageWidth] = meta.imageSize;
  const scale = Math.min(canvas.clientWidth / imageWidth, canvas.clientHeight / imageHeight);
  const sharpness = Math.max(256 / imageHeight, 1) * (renderer.slow ? (moving ? 0.5 : 1) : 2);
  const factor = Math.min(ratio, sharpness / scale);
  const width = Math.max(1, Math.round(canvas.clientWidth * factor));
  const height = Math.max(1, Math.round(canvas.clientHeight * factor));
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
}

function draw(moving) {
  const started = performance.now();
  resize(moving);
  const lens = camera.lens(canvas.width, canvas.height);
  const eps = Math.max(meta.lowPass * lens.scale * lens.scale, LEAST_LOW_PASS); // lowPass: pixels^2 of the input images
  renderer.draw(getFrame(state.time), camera.view(), lens, eps, moving, moving ? state.stride : 1);
  const ms = performance.now() - started;
  state.drawMs = 0.8 * state.drawMs + 0.2 * ms;
  if (moving && ms > SLOW_MS) state.stride = Math.min(state.stride * 2, 32);
  else if (moving && ms < QUICK_MS) state.stride = Math.max(state.stride / 2, 1);
  drawCameras(element("overlay"), state.showCameras ? state.active : null);
}

/** Decodes and uploads one more timestep in a quiet moment, the next ones to be played first. */
function loadAhead() {
  const count = meta.counts.length;
  for (let k = 0; k < count; k++) {
    const index = (state.time + k) % count;
    if (decodedFrames.has(index)) continue;
    renderer.prepare(getFrame(index));
    break;
  }
  state.loaded = decodedFrames.size;
}

/** How many Gaussians the page draws, and how many it has left out. */
function countText() {
  const held = meta.counts[state.time], all = meta.totals[state.time], number = (x) => x.toLocaleString("en");
  const sampled = held < all ? `${number(held)} of ${number(all)} Gaussians, sampled` : `${number(held)} Gaussians`;
  const drawn = state.stride > 1 && (state.playing || state.orbiting) ? `, 1 in ${state.stride} while it moves` : "";
  const loading = state.loaded < meta.counts.length ? ` · loading ${state.loaded} / ${meta.counts.length}` : "";
  return sampled + drawn + loading;
}

function showStatus() {
  const last = meta.counts.length - 1;
  element("stats").textContent = `${countText()} · ${renderer.name}` +
    ` · ${state.shownFps ? state.shownFps.toFixed(0) + " frames/s" : "idle"}`;
  element("time").textContent = `t = ${state.time} / ${last} · ${(state.time / meta.fps).toFixed(2)} s`;
  element("slider").value = state.time;
  element("play").textContent = state.playing ? "❚❚" : "▶";
}

function setTime(index) {
  if (!(index >= 0 && index < meta.counts.length)) throw new RangeError(`timestep ${index} of ${meta.counts.length}`);
  state.time = Math.floor(index);
  state.dirty = true;
  showStatus();
}

function jumpToCamera(index) {
  camera.jumpTo(index);
  [state.active, state.orbiting] = [index, false];
  [...element("views").children].forEach((button, i) => button.classList.toggle("active", i === index));
  state.dirty = true;
}

/** To be called after every change of the camera by hand. */
function touched() {
  [...element("views").children].forEach((button) => button.classList.remove("active"));
  state.active = -1;
  state.dirty = true;
  state.moved = performance.now();
}

let previous = 0;
function tick(now) {
  const elapsed = now - previous;
  previous = now;
  if (state.playing) {
    const period = 1000 / meta.fps; // a slow machine plays slower rather than skip timesteps
    state.clock = Math.min(state.clock + elapsed, 2 * period);
    if (state.clock >= period) {
      state.clock -= period;
      setTime((state.time + 1) % meta.counts.length);
    }
  }
  if (state.orbiting) {
    const sway = (at) => 0.3 * Math.sin(at / 1600); // radians, there and back in ten seconds
    camera.orbit(sway(now - state.orbiting) - sway(Math.max(0, now - elapsed - state.orbiting)), 0);
    touched();
  }
  if (state.loaded < meta.counts.length) { loadAhead(); showStatus(); }
  const moving = state.playing || now - state.moved < 200;
  if (state.wasMoving && !moving) state.dirty = true; // once more, at full sharpness
  state.wasMoving = moving;
  if (state.dirty) {
    state.dirty = false;
    draw(moving);
    state.shownFps = moving && elapsed > 0 ? 0.9 * (state.shownFps || 1000 / elapsed) + 0.1 * (1000 / elapsed) : 0;
    showStatus();
  }
  requestAnimationFrame(tick);
}

function bindPointers() {
  const pointers = new Map();
  const spread = () => { const [a, b] = [...pointers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  const perPixel = () => camera.distance() / camera.lens(canvas.clientWidth, canvas.clientHeight).fy;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.classList.add("dragging");
  });
  canvas.addEventListener("pointermove", (event) => {
    const old = pointers.get(event.pointerId);
    if (!old) return;
    const dx = event.clientX - old.x, dy = event.clientY - old.y, before = pointers.size === 2 ? spread() : 0;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (pointers.size === 2) {
      camera.zoom(before / Math.max(spread(), 1));
      camera.pan((dx / 2) * perPixel(), (dy / 2) * perPixel());
    } else if (event.buttons & 6 || event.shiftKey) camera.pan(dx * perPixel(), dy * perPixel());
    else camera.orbit(dx * 0.006, -dy * 0.006);
    touched();
  });
  for (const kind of ["pointerup", "pointercancel"])
    canvas.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      if (pointers.size === 0) canvas.classList.remove("dragging");
    });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    camera.zoom(Math.exp(Math.max(-100, Math.min(100, event.deltaY)) * 0.0015));
    touched();
  }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
}

function togglePlay() {
  state.playing = !state.playing && meta.counts.length > 1;
  state.clock = 0;
  showStatus();
}

function bindControls() {
  element("slider").max = meta.counts.length - 1;
  element("slider").addEventListener("input", (event) => { state.playing = false; setTime(+event.target.value); });
  element("play").addEventListener("click", togglePlay);
  meta.cameras.forEach((_, index) => {
    const button = document.createElement("button");
    button.textContent = index + 1;
    button.title = `input camera ${index + 1}`;
    button.addEventListener("click", () => jumpToCamera(index));
    element("views").append(button);
  });
  addEventListener("keydown", (event) => {
    if (event.key === " ") { event.preventDefault(); togglePlay(); }
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && event.target.id !== "slider") setTime((state.time + step + meta.counts.length) % meta.counts.length);
    if (event.key >= "1" && event.key <= "9" && +event.key <= meta.cameras.length) jumpToCamera(+event.key - 1);
  });
  const presets = {
    orbit: () => { state.orbiting = state.orbiting ? false : performance.now(); },
    overview: () => { jumpToCamera(Math.floor((meta.cameras.length - 1) / 2)); camera.zoom(1.6); touched(); },
    above: () => { jumpToCamera(Math.floor((meta.cameras.length - 1) / 2)); camera.orbit(0, -0.6); touched(); },
    cameras: () => { state.showCameras = !state.showCameras; },
  };
  for (const [name, apply] of Object.entries(presets))
    element(name).addEventListener("click", () => {
      if (name !== "orbit" && name !== "cameras") state.orbiting = false;
      apply();
      element("orbit").classList.toggle("active", Boolean(state.orbiting));
      element("cameras").classList.toggle("active", state.showCameras);
      state.dirty = true;
    });
  addEventListener("resize", () => { state.dirty = true; });
}

bindPointers();
bindControls();
jumpToCamera(0);
draw(false);
showStatus();
requestAnimationFrame(tick);

// For tests and for the console.
window.scene4d = {
  frames: meta.counts.length, setTime, jumpToCamera, ready: true, renderer: renderer.name, camera, state, sorting,
  /** Draws now, at full sharpness, and returns {width, height, scale, url} with the picture as PNG. */
  picture() {
    draw(false);
    return { width: canvas.width, height: canvas.height, scale: camera.lens(canvas.width, canvas.height).scale, url: canvas.toDataURL() };
  },
};
