"""`rasterize` against its plain torch twin (float64), and what users meet at its edges."""

import inspect

import pytest
import torch

from scene4d.rendering.rasterization import RENDER_MODES, rasterize, rasterize_reference

WIDTH, HEIGHT = 20, 14
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")


def make_scene(gaussians=60, cameras=2, seed=0, dtype=torch.float64, depth=4.0):
    """Random Gaussians around the origin of cameras that look at them; some off-screen, some behind."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(gaussians, 3, generator=g) * 1.5
    quats = torch.randn(gaussians, 4, generator=g)
    scales = 0.05 + 0.5 * torch.rand(gaussians, 3, generator=g)
    opacities = torch.rand(gaussians, generator=g)
    colors = torch.rand(gaussians, 3, generator=g)
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, :3, :3] = torch.linalg.qr(
        torch.eye(3) + 0.15 * torch.randn(cameras, 3, 3, generator=g)
    ).Q @ torch.diag(torch.tensor([-1.0, -1.0, -1.0]))
    viewmats[:, :3, :3] *= torch.linalg.det(viewmats[:, :3, :3]).sign()[:, None, None]
    viewmats[:, 2, 3] = depth
    Ks = torch.tensor([[18.0, 0, WIDTH / 2], [0, 17.0, HEIGHT / 2 - 0.3], [0, 0, 1]]).repeat(cameras, 1, 1)
    return tuple(x.to(dtype) for x in (means, quats, scales, opacities, colors, viewmats, Ks))


def run_with_gradients(function, scene, **options):
    """Outputs and the gradients of a random weighting of all outputs."""
    scene = [x.clone().requires_grad_() for x in scene]
    backgrounds = torch.linspace(0.1, 0.9, 3 * len(scene[5]), dtype=scene[0].dtype).reshape(-1, 3)
    backgrounds.requires_grad_()
    renders, alphas, info = function(*scene, WIDTH, HEIGHT, backgrounds=backgrounds, **options)
    g = torch.Generator().manual_seed(5)
    weights = torch.randn(renders.shape, generator=g).to(renders), torch.randn(alphas.shape, generator=g)
    ((renders * weights[0]).sum() + (alphas * weights[1].to(alphas)).sum()).backward()
    gradients = dict(zip((*NAMES, "backgrounds"), [x.grad for x in (*scene, backgrounds)]))
    return renders.detach(), alphas.detach(), info, gradients


def relative_error(ours, truth):
    return float((ours - truth).abs().max() / truth.abs().max().clamp(min=1e-300))


def assert_same(scene, tolerance=1e-10, **options):
    ours = run_with_gradients(rasterize, scene, **options)
    truth = run_with_gradients(rasterize_reference, scene, **options)
    assert ours[0].dtype == scene[0].dtype
    assert relative_error(ours[0], truth[0]) <= tolerance
    assert relative_error(ours[1], truth[1]) <= tolerance
    assert torch.equal(ours[2]["radii"] > 0, truth[2]["radii"] > 0)
    for name, expected in truth[3].items():
        if name == "Ks":
            assert ours[3][name] is None
        elif expected is not None:
            assert relative_error(ours[3][name], expected) <= tolerance, name
    return ours, truth


@pytest.mark.parametrize("render_mode", RENDER_MODES)
def test_outputs_and_every_gradient_equal_the_reference(render_mode):
    ours, truth = assert_same(make_scene(), render_mode=render_mode)
    assert truth[1].min() < 0.9 < truth[1].max()  # the scene has both holes and solid parts
    assert all(truth[3][name].abs().max() > 0 for name in ("means", "quats", "scales", "viewmats"))
    visible = truth[2]["radii"].gt(0).all(-1)
    assert 0 < visible.sum() < visible.numel()  # and Gaussians that are culled


@pytest.mark.parametrize("threads", [1, 3])
def test_several_bands_of_rows_change_nothing(threads, monkeypatch):
    monkeypatch.setattr("scene4d.rendering.numba_rasterizer.use_torch_threads", lambda: threads)
    assert_same(make_scene(cameras=1), render_mode="RGB+ED")


def test_colors_of_each_camera():
    scene = list(make_scene())
    scene[4] = torch.stack([scene[4], 1 - scene[4]])
    ours, _ = assert_same(scene)
    assert ours[3]["colors"].shape == (2, 60, 3)


def test_saturated_pixels_stop_before_the_splat_that_saturates():
    scene = list(make_scene(gaussians=200))
    scene[3] = torch.full_like(scene[3], 0.97)
    ours, truth = assert_same(scene)
    assert truth[1].max() > 0.999  # the stop at transmittance 1e-4 was reached
    assert truth[1].max() < 1 - 1e-4


def test_alpha_is_clamped_and_faint_splats_are_skipped():
    scene = list(make_scene(gaussians=30))
    scene[3] = torch.linspace(0, 1, 30, dtype=torch.float64)
    scene[3][:5] = torch.tensor([0.0, 1 / 512, 1 / 255 - 1e-9, 1 / 255 + 1e-9, 0.5 / 255])
    ours, _ = assert_same(scene, render_mode="RGB+D")
    assert not (ours[2]["radii"][:, :3] > 0).any()
    one = [x[:1] for x in scene]
    one[0], one[3] = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert rasterize(*one, WIDTH, HEIGHT)[1].max() <= 0.999


def test_equal_depths_composite_in_index_order():
    scene = list(make_scene(gaussians=2, cameras=1))
    scene[:3] = [x[:1].repeat(2, 1) for x in scene[:3]]
    scene[0] *= 0
    scene[3] = torch.tensor([0.6, 0.6], dtype=torch.float64)
    scene[4] = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64)
    assert_same(scene)
    first = rasterize(*scene, WIDTH, HEIGHT)[0][0]
    assert (first[..., 0] >= first[..., 1]).all() and (first[..., 0] > first[..., 1]).any()
    scene[4] = scene[4].flip(0)
    assert torch.equal(rasterize(*scene, WIDTH, HEIGHT)[0][0], first[..., [1, 0, 2]])


def test_splats_beyond_the_field_of_view_and_near_the_camera():
    scene = list(make_scene(depth=0.8))  # the camera stands inside the cloud
    ours, truth = assert_same(scene, render_mode="RGB+D", radius_clip=1.0)
    means2d, visible = truth[2]["means2d"], truth[2]["radii"].gt(0).all(-1)
    assert (visible & (means2d[..., 0].abs() > 1.6 * WIDTH)).any()  # where the Jacobian is clamped


@pytest.mark.parametrize(
    "limits", [{"near_plane": 4.0}, {"far_plane": 4.0}, {"radius_clip": 6.0}, {"eps2d": 1.0}]
)
def test_limits_act_as_in_the_reference(limits):
    scene = make_scene()
    ours, _ = assert_same(scene, **limits)
    assert not torch.allclose(ours[0], run_with_gradients(rasterize, scene)[0])


def test_gradcheck_on_a_tiny_scene():
    scene = make_scene(gaussians=2, cameras=1, seed=3)
    Ks = scene[6]
    Ks[:, :2] *= 0.2  # 4 x 3 pixels
    scene[0].mul_(0.3)
    scene[2].add_(0.8)  # so wide that no pixel comes near the jump at alpha = 1/255
    scene[3].mul_(0.4).add_(0.3)

    def function(*inputs):
        renders, alphas, _ = rasterize(*inputs, Ks, 4, 3, render_mode="RGB+D")
        return renders, alphas

    for g in range(2):
        alone = [x[g : g + 1] if i < 5 else x for i, x in enumerate(scene)]
        assert rasterize(*alone, 4, 3)[1].min() > 0.005
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in scene[:6]], eps=1e-6, atol=1e-6)


def test_float32_is_the_float64_result_rounded():
    scene = make_scene(dtype=torch.float32)
    ours = run_with_gradients(rasterize, scene, render_mode="RGB+ED")
    truth = run_with_gradients(rasterize_reference, [x.double() for x in scene], render_mode="RGB+ED")
    assert ours[0].dtype == ours[1].dtype == ours[3]["means"].dtype == torch.float32
    assert relative_error(ours[0].double(), truth[0]) < 1e-5
    assert relative_error(ours[3]["viewmats"].double(), truth[3]["viewmats"]) < 1e-3


def test_no_grad_and_autocast():
    scene = make_scene(dtype=torch.float32)
    expected = rasterize(*scene, WIDTH, HEIGHT)[0]
    with torch.no_grad():
        assert torch.equal(rasterize(*scene, WIDTH, HEIGHT)[0], expected)
    half = [x.to(torch.bfloat16).requires_grad_() if i < 5 else x for i, x in enumerate(scene)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        renders, alphas, _ = rasterize(*half, WIDTH, HEIGHT, render_mode="RGB+ED")
        renders.sum().backward()
    assert renders.dtype == alphas.dtype == torch.float32
    assert half[0].grad.dtype == torch.bfloat16 and half[0].grad.abs().max() > 0
    same = rasterize(*(x.float() for x in half), WIDTH, HEIGHT, render_mode="RGB+ED")[0]
    assert torch.equal(same, renders)


@pytest.mark.parametrize("gaussians", [0, 5])
def test_nothing_visible_leaves_the_background(gaussians):
    scene = [x.clone() for x in make_scene(gaussians=gaussians)]
    scene[5][:, 2, 3] = -50.0  # everything lies behind the cameras
    renders, alphas, _, gradients = run_with_gradients(rasterize, scene, render_mode="RGB+ED")
    backgrounds = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).reshape(2, 1, 1, 3)
    assert torch.equal(renders[..., :3], backgrounds.expand(2, HEIGHT, WIDTH, 3))
    assert (renders[..., 3] == 0).all() and (alphas == 0).all()
    assert all((gradients[name] == 0).all() for name in NAMES[:6])


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("D", 1), ("RGB+ED", 4)])
@pytest.mark.parametrize(("gaussians", "cameras"), [(0, 2), (5, 0), (0, 0)])
def test_no_gaussians_and_no_cameras_have_the_usual_shapes(gaussians, cameras, mode, channels):
    scene = [x.requires_grad_() for x in make_scene(gaussians, cameras)]
    renders, alphas, info = rasterize(*scene, WIDTH, HEIGHT, render_mode=mode)
    assert renders.shape == (cameras, HEIGHT, WIDTH, channels) and alphas.shape == (cameras, HEIGHT, WIDTH, 1)
    assert info["radii"].shape == info["means2d"].shape == (cameras, gaussians, 2)
    renders.sum().backward()
    assert all((x.grad == 0).all() for x in scene[:6])


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_named(index, value):
    scene = [x.clone() for x in make_scene()]
    scene[index].view(-1)[1] = value
    with pytest.raises(ValueError, match=f"{NAMES[index]} holds 1 NaN or infinite"):
        rasterize(*scene, WIDTH, HEIGHT)


def test_wrong_input_is_named():
    scene = list(make_scene())
    with pytest.raises(ValueError, match="'rgb' is not one of RGB"):
        rasterize(*scene, WIDTH, HEIGHT, render_mode="rgb")
    with pytest.raises(ValueError, match="width 0"):
        rasterize(*scene, 0, HEIGHT)
    with pytest.raises(ValueError, match=r"backgrounds has shape \(1, 3\), expected \(2, 3\)"):
        rasterize(*scene, WIDTH, HEIGHT, backgrounds=torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"opacities has shape \(3,\), expected \(60,\)"):
        rasterize(*scene[:3], scene[3][:3], *scene[4:], WIDTH, HEIGHT)
    with pytest.raises(ValueError, match=r"colors has shape \(59, 3\)"):
        rasterize(*scene[:4], scene[4][1:], *scene[5:], WIDTH, HEIGHT)


def test_signature_is_part_of_gsplats():
    gsplat = pytest.importorskip("gsplat")
    theirs = inspect.signature(gsplat.rasterization).parameters
    for function in (rasterize, rasterize_reference):
        ours = inspect.signature(function).parameters
        assert list(ours) == [name for name in theirs if name in ours]
        assert all(ours[name].default == theirs[name].default for name in ours)


def test_cuda_call_passes_every_argument_under_gsplats_names(monkeypatch):
    import scene4d.rendering.gsplat_rasterizer as module

    seen = {}
    signature = inspect.signature(module.gsplat.rasterization)

    def record(**arguments):
        signature.bind(**arguments)  # raises if gsplat would not take them
        seen.update(arguments)
        return "called"

    monkeypatch.setattr(module.gsplat, "rasterization", record)
    scene = make_scene()
    assert module.rasterize_gsplat(*scene, WIDTH, HEIGHT, 0.1, 9.0, 0.5, 0.2, None, "RGB+D") == "called"
    assert all(seen[name] is tensor for name, tensor in zip(NAMES, scene))
    rest = {
        name: seen[name] for name in ("width", "height", "near_plane", "far_plane", "radius_clip", "eps2d")
    }
    assert list(rest.values()) == [WIDTH, HEIGHT, 0.1, 9.0, 0.5, 0.2] and seen["render_mode"] == "RGB+D"


@pytest.mark.parametrize("of_cameras", [False, True])
def test_sets_along_leading_axes_equal_each_set_alone_with_gradients(of_cameras):
    sets = [list(make_scene(20, seed=k)) for k in range(4)]
    for scene in sets if of_cameras else ():
        scene[4] = torch.stack([scene[4], 1 - scene[4]])
    backgrounds = torch.rand(2, 2, 2, 3, dtype=torch.float64)
    stacked = [torch.stack(x).unflatten(0, (2, 2)).requires_grad_() for x in zip(*sets)]
    renders, alphas, info = rasterize(*stacked, WIDTH, HEIGHT, backgrounds=backgrounds, render_mode="RGB+ED")
    assert renders.shape == (2, 2, 2, HEIGHT, WIDTH, 4) and alphas.shape == (2, 2, 2, HEIGHT, WIDTH, 1)
    (renders.square().sum() + alphas.sum()).backward()
    one = [x.clone().requires_grad_() for x in sets[2]]
    expected = rasterize(*one, WIDTH, HEIGHT, backgrounds=backgrounds[1, 0], render_mode="RGB+ED")
    (expected[0].square().sum() + expected[1].sum()).backward()
    assert torch.equal(renders[1, 0], expected[0]) and torch.equal(alphas[1, 0], expected[1])
    assert all(torch.equal(info[name][1, 0], expected[2][name]) for name in expected[2])
    for name, ours, alone in zip(NAMES, stacked[:6], one):
        assert torch.equal(ours.grad[1, 0], alone.grad), name
    assert rasterize(*(x[:0] for x in stacked), WIDTH, HEIGHT)[0].shape == (0, 2, 2, HEIGHT, WIDTH, 3)


def test_sets_that_do_not_fit_are_named():
    scene = [x[None] for x in make_scene()]
    with pytest.raises(ValueError, match=r"quats has shape \(60, 4\), expected \(1, 60, 4\)"):
        rasterize(scene[0], scene[1][0], *scene[2:], WIDTH, HEIGHT)
    with pytest.raises(
        ValueError, match=r"colors has shape \(60, 3\), expected \(1, 60, d\) or \(1, 2, 60, d\)"
    ):
        rasterize(*scene[:4], scene[4][0], *scene[5:], WIDTH, HEIGHT)
