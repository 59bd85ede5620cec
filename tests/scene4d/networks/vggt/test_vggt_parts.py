import pytest
import torch
import torch.nn.functional as F

from scene4d.networks.vggt.camera_head import CameraHead
from scene4d.networks.vggt.dpt_head import ResidualUnit, position_embedding
from scene4d.networks.vggt.layers import SHORT, attend
from scene4d.networks.vggt.rope import patch_rotation, rotate, time_rotation
from scene4d.networks.vggt.view_matcher import ViewMatcher


def test_residual_unit_has_relu_on_its_skip():
    unit = ResidualUnit(4)
    for layer in (unit.conv1, unit.conv2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(unit(x), F.relu(x))  # the textbook form would return x


def test_short_and_long_attention_agree():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, SHORT + 1, 8, dtype=torch.float64)
    whole = attend(q, k, v)  # fused
    explicit = ((q * 8**-0.5) @ k.mT).softmax(-1) @ v
    assert torch.allclose(whole, explicit)
    assert torch.allclose(attend(q[:, :, :9], k[:, :, :9], v[:, :, :9]),
                          F.scaled_dot_product_attention(q[:, :, :9], k[:, :, :9], v[:, :, :9]))  # fmt: skip


def test_patch_rotation_depends_on_relative_positions_and_spares_special_tokens():
    rotation = patch_rotation(3, 4, special=2, head_dim=8, base=100.0, device=torch.device("cpu"))
    tokens = torch.randn(8).expand(1, 1, 14, 8)
    turned = rotate(tokens, rotation)[0, 0]
    assert torch.equal(turned[:2], tokens[0, 0, :2])  # position 0
    products = turned[2:].unflatten(0, (3, 4)) @ turned[2:].T  # rows columns patches
    assert torch.allclose(products[0, 0, 1 * 4 + 2], products[1, 1, 2 * 4 + 3], atol=1e-5)
    assert not torch.allclose(products[0, 0, 1], products[0, 0, 4], atol=1e-3)  # x and y differ


def test_patch_rotation_by_hand():
    """Head of 4: y in channels 0, 1 and x in 2, 3; one frequency (base**0) each, half against half."""
    rotation = patch_rotation(1, 2, special=0, head_dim=4, base=100.0, device=torch.device("cpu"))
    turned = rotate(torch.tensor([1.0, 0, 1, 0]).expand(1, 1, 2, 4), rotation)[0, 0, 1]
    angle_y, angle_x = torch.tensor(1.0), torch.tensor(2.0)  # the second patch of the first row: (y, x) + 1
    assert torch.allclose(turned, torch.stack([angle_y.cos(), angle_y.sin(), angle_x.cos(), angle_x.sin()]))


def test_time_rotation_starts_at_zero():
    cosine, sine = time_rotation(3, 8, 100.0, torch.device("cpu"))
    assert cosine[0].eq(1).all() and sine[0].eq(0).all() and not sine[1].eq(0).any()


def test_camera_head_starts_at_the_identity_and_passes_no_gradient_between_iterations():
    torch.manual_seed(0)
    head = CameraHead(16, depth=1, heads=2, iterations=3)
    tokens = torch.randn(2, 4, 16)
    poses = head(tokens)
    assert poses[-1].shape == (2, 4, 9)
    identity = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0.785, 0.785])
    assert torch.allclose(poses[-1], identity.expand(2, 4, 9), atol=0.5)
    poses[1].sum().backward()  # the second iteration must not train the first through its pose
    assert head.empty_pose_tokens.grad is None


def test_position_embedding_runs_x_then_y_and_sine_before_cosine():
    table = position_embedding(8, 3, 4, aspect=4 / 3, device=torch.device("cpu"))
    assert table.shape == (8, 3, 4)
    assert (table[:4] == table[:4, :1]).all() and (table[4:] == table[4:, :, :1]).all()
    edge = 0.8 * 3 / 4  # span_x = aspect / diagonal = 4/5, shortened by half a pixel on both sides
    assert torch.allclose(table[0, 0, -1], torch.tensor(edge).sin())
    assert torch.allclose(table[2, 0, -1], torch.tensor(edge).cos())
    assert torch.allclose(table[4, -1, 0], torch.tensor(0.6 * 2 / 3).sin())


def test_matcher_finds_a_shift_once_its_features_do():
    """With features that spell out the cell's content, the described displacement is the true one."""
    matcher = ViewMatcher(dim=8, patch_size=8)
    first = F.normalize(torch.randn(64, 16), dim=-1)  # 8 x 8 cells
    second = first.view(8, 8, 16).roll(1, dims=1).reshape(64, 16)  # content moved one cell to the right
    matcher.encoder.forward = lambda images: torch.stack([first, second])
    with torch.no_grad():
        matcher.log_temperature.fill_(5.0)
    from scene4d.networks.vggt import view_matcher

    described = {}
    original = view_matcher._describe

    def spy(*arguments):
        described["cells"], positions = original(*arguments)
        return described["cells"], positions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view_matcher, "_describe", spy)
        tokens = matcher(torch.rand(1, 2, 3, 32, 32), 4, 4)
    to_first = described["cells"][0, 1].view(8, 8, 8)[:, 1:]  # the first column wrapped around
    assert torch.allclose(to_first[..., 0] * 4, torch.tensor(-1.0), atol=0.05)
    assert torch.allclose(to_first[..., 1], torch.tensor(0.0), atol=0.02)
    assert (to_first[..., 3] == 1).all()  # cycles agree
    assert described["cells"][0, 0, :, :2].abs().max() < 0.02  # the first view, matched with itself
    assert tokens.patches.shape == (1, 2, 16, 8) and tokens.camera.shape == (1, 2, 1, 8)
