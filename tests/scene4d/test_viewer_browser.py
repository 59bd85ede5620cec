"""viewer.html in headless Chromium, without a GPU: its pictures against `rasterize`, and its controls.

The browser is driven by the DevTools protocol over a pipe, which needs no package.
"""

import base64
import fcntl
import io
import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scene4d.gaussians.blur import with_blur
from scene4d.rendering import rasterize
from scene4d.types import Cameras, Gaussians
from scene4d.viewer import write_viewer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-pipe --window-size=560,480"
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, url: str, profile: Path, flags: str = ""):
        read_commands, self.commands = os.pipe()
        self.answers, write_answers = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (read_commands, write_answers)]
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS.split(), *flags.split(), f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=lambda: [os.dup2(fd, number) for fd, number in zip(high, (3, 4))],
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (read_commands, write_answers, *high):
            os.close(fd)
        self.buffer, self.count, self.session, self.events = b"", 0, None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=url)
        self.evaluate(
            "new Promise((done) => { const wait = () => window.scene4d?.ready"
            " && document.readyState === 'complete' ? done() : setTimeout(wait, 20); wait(); })"
        )

    def send(self, method: str, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self):
        while b"\0" not in self.buffer:
            data = os.read(self.answers, 1 << 20)
            assert data, "the browser ended"
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def evaluate(self, expression: str):
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def picture(self):
        """What the page draws now: pixels (h, w, 3) in [0, 1], and screen pixels per input pixel."""
        found = self.evaluate("scene4d.picture()")
        data = base64.b64decode(found["url"].split(",")[1])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255.0, found["scale"]

    def screenshot(self, path: Path):
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def mouse(self, kind: str, x: float, y: float, **extra):
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **extra)

    def drag(self, dx: float, dy: float, button: str = "left"):
        buttons = {"left": 1, "right": 2}[button]
        self.mouse("mousePressed", 280, 200, button=button, buttons=buttons, clickCount=1)
        for step in range(1, 6):
            self.mouse("mouseMoved", 280 + dx * step / 5, 200 + dy * step / 5, button=button, buttons=buttons)
        self.mouse("mouseReleased", 280 + dx, 200 + dy, button=button, clickCount=1)

    def problems(self):
        """Exceptions, console errors and network requests other than the page itself."""
        bad = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                bad.append(params)
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                bad.append(params["args"])
            if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("file:"):
                bad.append(params["request"]["url"][:100])
        return bad

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.commands)
        os.close(self.answers)


def torus(time: float, around: int = 90, across: int = 36) -> Gaussians:
    """A coloured torus of flat discs that spins, tips and wanders; `time` in [0, 1]."""
    u = torch.arange(around).repeat_interleave(across) * (2 * math.pi / around)
    v = torch.arange(across).repeat(around) * (2 * math.pi / across)
    normals = torch.stack([v.cos() * u.cos(), v.sin(), v.cos() * u.sin()], dim=-1)
    means = torch.stack([u.cos(), torch.zeros_like(u), u.sin()], dim=-1) + 0.4 * normals
    axes = torch.where(normals[:, 2:] < 0, -normals, normals)  # a disc has no front
    half = torch.stack([1 + axes[:, 2], -axes[:, 1], axes[:, 0], torch.zeros_like(u)], dim=-1)
    quats = torch.nn.functional.normalize(half, dim=-1)  # turns z to the normal
    tip = torch.tensor(0.9 + 0.6 * math.sin(2 * math.pi * time))
    turn = torch.eye(3)
    turn[1, 1] = turn[2, 2] = tip.cos()
    turn[1, 2], turn[2, 1] = -tip.sin(), tip.sin()
    spin = torch.stack([(tip / 2).cos(), (tip / 2).sin(), torch.tensor(0.0), torch.tensor(0.0)])
    w, x, y, z = quats.unbind(-1)
    a, b = spin[0], spin[1]
    quats = torch.stack([a * w - b * x, a * x + b * w, a * y - b * z, a * z + b * y], dim=-1)
    hue = u / (2 * math.pi) + time
    colors = 0.5 + 0.45 * torch.cos(2 * math.pi * (hue[:, None] + torch.tensor([0.0, 1 / 3, 2 / 3])))
    shade = 0.55 + 0.45 * (normals @ turn.T)[:, 1:2].neg().clamp(min=0)
    return Gaussians(
        means=means @ turn.T + torch.tensor([0.5 * math.sin(2 * math.pi * time), 0.0, 0.0]),
        quats=quats,
        scales=torch.tensor([0.05, 0.05, 0.01]).repeat(len(u), 1),
        opacities=0.6 + 0.35 * torch.cos(7 * u) ** 2,
        colors=colors * shade,
    )


def cameras_on_an_arc(views: int = 4) -> Cameras:
    c2w = torch.eye(4).repeat(views, 1, 1)
    for index, angle in enumerate(torch.linspace(-0.35, 0.35, views)):
        c2w[index, :3, 0] = torch.stack([angle.cos(), torch.tensor(0.0), -angle.sin()])
        c2w[index, :3, 2] = torch.stack([angle.sin(), torch.tensor(0.0), angle.cos()])
        c2w[index, :3, 3] = -4.2 * c2w[index, :3, 2] + torch.tensor([0.0, -0.2, 0.0])
    return Cameras(c2w, torch.tensor([[75.0, 0, 33], [0, 75, 31], [0, 0, 1]]).repeat(views, 1, 1))


def expected_picture(
    gaussians: Gaussians, camera: Cameras, shape: tuple[int, int], scale: float, eps2d: float | None = None
) -> np.ndarray:
    """`rasterize` at the browser's resolution, with the low-pass of the input resolution unless another is given."""
    eps2d = 0.3 * scale**2 if eps2d is None else eps2d
    height, width = shape
    K = camera.intrinsics.clone()
    K[:2] *= scale
    K[0, 2] += (width - 64 * scale) / 2
    K[1, 2] += (height - 64 * scale) / 2
    renders, _, _ = rasterize(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colors,
        camera.viewmats[None], K[None], width, height, eps2d=eps2d, backgrounds=torch.ones(1, 3),
    )  # fmt: skip
    return renders[0].clamp(0, 1).numpy()


def psnr(a, b) -> float:
    return -10 * math.log10(float(np.mean((a - b) ** 2)))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    frames, cameras = [torus(i / 6) for i in range(6)], cameras_on_an_arc()
    write_viewer(folder / "viewer.html", frames, cameras, (64, 64), fps=12, title="A torus in motion")
    return folder, frames, cameras


@pytest.fixture(scope="module", params=["webgl", "software"])
def browser(request, scene, tmp_path_factory):
    """The page drawn by WebGL2 (emulated, so asked for), and as any machine without a GPU has it."""
    hash_, flags = (
        ("#renderer=webgl", "--enable-unsafe-swiftshader") if request.param == "webgl" else ("", "")
    )
    page = Browser(f"file://{scene[0] / 'viewer.html'}{hash_}", tmp_path_factory.mktemp("profile"), flags)
    page.kind = request.param
    yield page
    page.close()


def test_renderer_is_the_one_expected(browser):
    assert browser.evaluate("scene4d.renderer") == {"webgl": "WebGL2", "software": "software"}[browser.kind]


def test_falls_back_where_webgl_is_missing(scene, tmp_path):
    page = Browser(f"file://{scene[0] / 'viewer.html'}#renderer=webgl", tmp_path, "--disable-3d-apis")
    try:
        assert page.evaluate("scene4d.renderer") == "software"
        picture, scale = page.picture()
        truth = expected_picture(scene[1][0], scene[2][0], picture.shape[:2], scale)
        assert psnr(picture, truth) > 50
    finally:
        page.close()


@pytest.mark.parametrize("view", [0, 3])
@pytest.mark.parametrize("time", [0, 4])
def test_pictures_are_those_of_rasterize(browser, scene, time, view, record_property):
    _, frames, cameras = scene
    browser.evaluate(f"scene4d.jumpToCamera({view}); scene4d.setTime({time})")
    picture, scale = browser.picture()
    truth = expected_picture(frames[time], cameras[view], picture.shape[:2], scale)
    assert 0.1 < (truth.min(axis=2) < 0.95).mean() < 0.9  # an object on white
    value = psnr(picture, truth)
    record_property("psnr", float(value))
    assert value > 50, value
    other = expected_picture(frames[5 - time], cameras[view], picture.shape[:2], scale)
    assert psnr(picture, other) < 20  # another timestep is another picture


@pytest.mark.parametrize("renderer", ["webgl", "software"])
def test_gaussians_that_include_the_blur_look_the_same_without_a_switch(tmp_path, renderer):
    """Thin Gaussians, one for each pixel of the input: the page draws what the renderer draws, without holes."""
    c2w, size = torch.eye(4)[None], 64
    cameras = Cameras(c2w, torch.tensor([[[75.0, 0, 32], [0, 75, 32], [0, 0, 1]]]))
    ys, xs = torch.meshgrid(torch.arange(16, 48) + 0.5, torch.arange(16, 48) + 0.5, indexing="ij")
    rays = torch.stack([(xs - 32) / 75, (ys - 32) / 75, torch.ones_like(xs)], -1).reshape(1, 1, -1, 3)
    count = rays.shape[2]
    thin = Gaussians(
        means=2 * rays, quats=torch.tensor([1.0, 0, 0, 0]).expand(1, 1, count, 4),
        scales=torch.full((1, 1, count, 3), 0.09 * 2 / 75), opacities=torch.full((1, 1, count), 0.9),
        colors=torch.tensor([0.8, 0.2, 0.1]).expand(1, 1, count, 3),
    )  # fmt: skip
    frame = with_blur(thin, cameras[None])[0, 0]
    write_viewer(tmp_path / "viewer.html", [frame], cameras, (size, size))
    flags = "--enable-unsafe-swiftshader" if renderer == "webgl" else ""
    page = Browser(f"file://{tmp_path / 'viewer.html'}#renderer={renderer}", tmp_path / "profile", flags)
    try:
        picture, scale = page.picture()
        assert page.evaluate("scene4d.renderer") == {"webgl": "WebGL2", "software": "software"}[renderer]
        assert page.evaluate("document.querySelectorAll('input[type=checkbox]').length") == 0
    finally:
        page.close()
    truth = expected_picture(frame, cameras[0], picture.shape[:2], scale, 0.01)
    assert psnr(picture, truth) > 45
    height, width = picture.shape[:2]
    reach = int(14 * scale)
    inside = picture[height // 2 - reach : height // 2 + reach, width // 2 - reach : width // 2 + reach]
    assert inside[..., 1].max() < 0.4  # no white shines through


def test_mouse_turns_moves_and_zooms(browser):
    browser.evaluate("scene4d.jumpToCamera(0); scene4d.setTime(0)")
    before, _ = browser.picture()
    pose = "[...scene4d.camera.position, ...scene4d.camera.forward]"
    start = np.array(browser.evaluate(pose))
    browser.drag(60, 20)
    turned = np.array(browser.evaluate(pose))
    assert np.abs(turned[3:] - start[3:]).max() > 0.1
    pivot = np.array(browser.evaluate("scene4d.camera.pivot"))
    reach = np.linalg.norm([start[:3] - pivot, turned[:3] - pivot], axis=1)
    assert abs(reach[0] - reach[1]) < 1e-6  # it went round the pivot
    browser.drag(30, 0, button="right")
    moved = np.array(browser.evaluate(pose))
    assert np.allclose(moved[3:], turned[3:]) and np.abs(moved[:3] - turned[:3]).max() > 0.1
    browser.mouse("mouseWheel", 280, 200, deltaX=0, deltaY=-200)
    zoomed = np.array(browser.evaluate(pose))
    pivot = np.array(browser.evaluate("scene4d.camera.pivot"))
    assert np.linalg.norm(zoomed[:3] - pivot) < 0.95 * np.linalg.norm(moved[:3] - pivot)
    assert psnr(browser.picture()[0], before) < 25
    browser.evaluate("scene4d.jumpToCamera(0)")
    assert np.allclose(browser.evaluate(pose), start)
    assert psnr(browser.picture()[0] + 1e-9, before) > 60  # and back exactly


def test_play_runs_through_time_and_slider_stops_it(browser):
    browser.evaluate("scene4d.setTime(0); document.getElementById('play').click()")
    seen = browser.evaluate(
        "new Promise((done) => { const seen = new Set(), began = performance.now();"
        " const look = () => { seen.add(scene4d.state.time);"
        " if (seen.size >= 3 || performance.now() - began > 60000) done([...seen]);"
        " else setTimeout(look, 5); }; look(); })"
    )
    assert len(seen) >= 3
    browser.evaluate(
        "{ const s = document.getElementById('slider'); s.value = 5; s.dispatchEvent(new Event('input')); }"
    )
    assert browser.evaluate("[scene4d.state.time, scene4d.state.playing]") == [5, False]
    assert browser.evaluate("document.getElementById('time').textContent").startswith("t = 5 / 5")
    assert browser.evaluate("document.getElementById('stats').textContent").startswith("3,240 Gaussians")
    assert browser.evaluate("document.querySelectorAll('#views button').length") == 4


def test_screenshot_and_no_problems(browser, scene):
    """The whole page as a user sees it: white corners, the object, and no error or request."""
    browser.evaluate("scene4d.jumpToCamera(1); scene4d.setTime(2)")
    browser.evaluate("new Promise((done) => setTimeout(done, 400))")
    path = scene[0] / f"{browser.kind}.png"
    browser.screenshot(path)
    pixels = np.asarray(Image.open(path).convert("RGB")) / 255.0
    assert (pixels[5, -5] == 1).all()
    assert 0.05 < (np.ptp(pixels, axis=2) > 0.25).mean() < 0.6  # coloured pixels
    assert browser.problems() == []
