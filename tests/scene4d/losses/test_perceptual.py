"""The perceptual distance: orders images as eyes do, equals lpips's formula, stays out of checkpoints."""

import pickle

import lpips
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import gaussian_blur

from scene4d.losses import PerceptualImageLoss
from scene4d.losses.perceptual import SQUEEZENET, VGG_FILE, PerceptualLoss


@pytest.fixture(scope="module")
def perceptual() -> PerceptualLoss:
    return PerceptualLoss(prefer_lpips=False)


def pictures(n: int, size: int = 64) -> torch.Tensor:
    """Coarse random shapes: different seeds give different pictures."""
    generator = torch.Generator().manual_seed(n)
    coarse = torch.rand(n, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=size, mode="nearest")


def test_orders_distortions(perceptual):
    images = pictures(6)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    same = perceptual(images, images)
    light = perceptual(images, (images + 0.02 * noise).clamp(0, 1))
    heavy = perceptual(images, (images + 0.05 * noise).clamp(0, 1))
    other = perceptual(images, images.roll(1, 0))
    assert same.shape == (6,) and same.abs().max() < 1e-6
    assert (light > same).all() and (heavy > light).all() and (other > heavy).all()


def test_blur_costs_although_psnr_rises(perceptual):
    truth = pictures(4)
    shifted = truth.roll(3, -1)
    blurred = gaussian_blur(shifted, 9, 2.0)
    assert (blurred - truth).square().mean() < (shifted - truth).square().mean()
    assert perceptual(blurred, truth).mean() > perceptual(shifted, truth).mean()


def test_equals_lpips_without_linear_layers(perceptual):
    reference = lpips.LPIPS(net="squeeze", pnet_rand=True, lpips=False, verbose=False).eval()
    state = {k: v.float() for k, v in load_file(SQUEEZENET).items()}
    renamed = {}
    for number, layers in enumerate((range(2), range(2, 5), range(5, 8), (8, 9), (10,), (11,), (12,)), 1):
        for k, v in state.items():
            if k.startswith("features.") and int(k.split(".")[1]) in layers:
                renamed[k.replace("features", f"slice{number}")] = v
    reference.net.load_state_dict(renamed)
    a, b = pictures(3), pictures(4)[:3]
    with torch.no_grad():
        expected = reference(a * 2 - 1, b * 2 - 1).flatten()
    torch.testing.assert_close(perceptual(a, b), expected, rtol=2e-3, atol=1e-5)  # its constants are rounded


def test_is_frozen_and_unsaved_and_gives_gradients(perceptual):
    assert not list(perceptual.parameters()) and not perceptual.state_dict()
    assert not perceptual.train().training
    images = pictures(2).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        distance = perceptual(images, pictures(3)[:2])
    assert distance.dtype == torch.float32
    distance.sum().backward()
    assert images.grad.abs().sum() > 0


def test_is_built_under_a_meta_device():
    with torch.device("meta"):
        assert next(PerceptualLoss(prefer_lpips=False).buffers()).device.type == "cpu"


def test_building_it_leaves_the_random_numbers_alone():
    state = torch.get_rng_state()
    PerceptualLoss(prefer_lpips=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_pickle_holds_no_weights(perceptual):
    stored = pickle.dumps(perceptual)
    assert len(stored) < 1000
    a, b = pictures(2), pictures(3)[:2]
    assert torch.equal(pickle.loads(stored)(a, b), perceptual(a, b))


def test_names_what_it_is_and_never_downloads(perceptual, tmp_path, monkeypatch):
    assert perceptual.name == "SqueezeNet distance"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert PerceptualLoss().name == "SqueezeNet distance"
    with pytest.raises(ValueError, match="nowhere.safetensors"):
        PerceptualLoss(squeezenet=str(tmp_path / "nowhere.safetensors"))


def test_says_which_distance_it_is_and_warns_of_a_weight_for_another(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with caplog.at_level("INFO"):
        PerceptualImageLoss(0.02, chosen_for="squeezenet_distance")
        assert [x.message for x in caplog.records] == ["perceptual distance: SqueezeNet distance"]
        PerceptualImageLoss(0.5, chosen_for="lpips_vgg")
    (warning,) = [x.message for x in caplog.records if x.levelname == "WARNING"]
    assert "chosen for lpips_vgg, and this is squeezenet_distance" in warning and VGG_FILE in warning


def test_refuses_other_weights(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="other.safetensors does not hold"):
        PerceptualLoss(squeezenet=str(path), prefer_lpips=False)


def test_an_installed_package_without_weights_builds_and_cannot_compare(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("scene4d.losses.perceptual.SQUEEZENET", tmp_path / "absent.safetensors")
    loss = PerceptualLoss()
    assert loss.score == "squeezenet_distance" and not loss.state_dict()
    with pytest.raises(
        ValueError, match=r"no weights for the perceptual distance: .*absent.*; training and scoring"
    ):
        loss(pictures(2), pictures(3)[:2])


@pytest.mark.slow
def test_uses_lpips_where_its_trunk_lies(tmp_path, monkeypatch):
    """With random weights in the trunk's place (0.5 GB): only that it is taken, and works."""
    import torchvision

    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(torchvision.models.vgg16(weights=None).state_dict(), folder / VGG_FILE)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    loss = PerceptualLoss()
    assert loss.name == "LPIPS (vgg)" and not loss.state_dict()
    assert loss(pictures(2), pictures(3)[:2]).shape == (2,)


def test_trunk_knows_a_photo():
    """The classifier on top of the committed trunk names a photo of scikit-learn's."""
    datasets = pytest.importorskip("sklearn.datasets")
    import torchvision

    photo = Image.fromarray(datasets.load_sample_image("china.jpg"))
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    network.load_state_dict({k: v.float() for k, v in load_file(SQUEEZENET).items()})
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    with torch.no_grad():
        scores = network(weights.transforms()(photo)[None])[0].softmax(0)
    best = {weights.meta["categories"][i] for i in scores.topk(2).indices}
    assert best == {"stupa", "dome"}


def test_remembered_features_are_those_of_the_images_given(perceptual):
    a, b, truth = pictures(3), pictures(4)[:3], pictures(5)[:3]
    expected = [perceptual(x, y) for x, y in ((a, truth), (b, truth), (b, a))]  # with gradients: not kept
    with torch.no_grad():
        for first, second in zip(expected, (perceptual(x, y) for x, y in ((a, truth), (b, truth), (b, a)))):
            assert torch.equal(first, second)
