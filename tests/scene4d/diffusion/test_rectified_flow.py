"""Schedule, objective and sampler against closed forms."""

import pytest
import torch

from scene4d.diffusion.rectified_flow import (
    Guidance,
    RectifiedFlow,
    sampling_sigmas,
    shift_sigmas,
)


def grid(b=2, v=2, n=3):
    torch.manual_seed(0)
    return torch.randn(b, v, n, 4, 2, 2)


def corner_mask(b=2, v=2, n=3):
    mask = torch.zeros(b, v, n, dtype=torch.bool)
    mask[:, 0], mask[:, :, 0] = True, True
    return mask


def test_sigmas_are_shifted_once():
    torch.testing.assert_close(sampling_sigmas(4, 3.0), torch.tensor([1, 0.9, 0.75, 0.5, 0]))
    with pytest.raises(ValueError, match="got 0"):
        sampling_sigmas(0)


def test_shift_of_one_changes_nothing():
    sigmas = torch.rand(5)
    torch.testing.assert_close(shift_sigmas(sigmas, 1.0), sigmas)


@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_a_perfect_network_has_no_loss_and_samples_the_data(prediction):
    x, mask = grid(), corner_mask()
    flow = RectifiedFlow(prediction=prediction, sigma_floor=1e-3)

    def perfect(noisy, sigmas, text, references, reference_mask):
        if prediction == "data":
            return x
        return (noisy - x) / sigmas.view(-1, 1, 1, 1, 1, 1).clamp(min=1e-6)

    assert flow.loss(perfect, x, mask).max() < 1e-6
    *_, sample = flow.predictions(perfect, torch.randn_like(x), x, mask, steps=5)
    torch.testing.assert_close(sample, x, atol=1e-4, rtol=0)


def test_references_do_not_count_in_the_loss_and_are_fed_clean():
    x, mask, seen = grid(), corner_mask(), {}

    def network(noisy, sigmas, text, references, reference_mask):
        seen.update(noisy=noisy, references=references)
        return x + 100.0 * mask[..., None, None, None]

    flow = RectifiedFlow(prediction="data")
    assert flow.loss(network, x, mask).max() == 0
    assert torch.equal(seen["noisy"][mask], x[mask]) and not torch.equal(seen["noisy"][~mask], x[~mask])
    assert seen["references"][~mask].abs().max() == 0
    RectifiedFlow(prediction="data", clean_references=False).loss(network, x, mask, sigmas=torch.ones(2))
    assert not torch.equal(seen["noisy"][mask], x[mask])


def test_velocity_and_data_losses_agree_above_the_floor():
    x, mask, noise, sigmas = grid(), corner_mask(), torch.randn(2, 2, 3, 4, 2, 2), torch.tensor([0.5, 0.8])
    guess = x + 0.1

    def data(noisy, *rest):
        return guess

    def velocity(noisy, s, *rest):
        return (noisy - guess) / s.view(-1, 1, 1, 1, 1, 1)

    ours = RectifiedFlow(prediction="data").loss(data, x, mask, None, sigmas, noise)
    theirs = RectifiedFlow(prediction="velocity", clean_references=False).loss(
        velocity, x, mask, None, sigmas, noise
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_every_prediction_keeps_the_given_references():
    x, mask = grid(), corner_mask()
    path = list(
        RectifiedFlow().predictions(lambda noisy, *rest: 0 * noisy, torch.randn_like(x), x, mask, steps=2)
    )
    assert len(path) == 2 and all(torch.equal(out[mask], x[mask]) for out in path)


@pytest.mark.parametrize("clean_references", [True, False])
@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_sampling_feeds_references_as_training_does(prediction, clean_references):
    """Whatever the network says about given latents, which the loss never trains."""
    x, mask, noise, fed = grid(), corner_mask(), torch.randn(grid().shape), []

    def network(noisy, *rest):
        fed.append(noisy[mask])
        return torch.full_like(noisy, 7.0)

    flow = RectifiedFlow(prediction=prediction, clean_references=clean_references, noise_scale=0.5)
    list(flow.predictions(network, noise, x, mask, steps=4))
    sampled = fed.copy()
    for sigma, ours in zip(sampling_sigmas(4), sampled):
        flow.loss(network, x, mask, None, sigma.expand(len(x)), noise)
        torch.testing.assert_close(ours, fed[-1])


@pytest.mark.parametrize("options", [{"shift": 3.0}, {"shift": 5.0, "sampling_shift": 3.0}])
def test_steps_follow_the_euler_formula(options):
    """Against the ten lines of the formula, velocity form; the first prediction is the mean from pure noise."""
    x, noise, nothing = grid(), torch.randn(grid().shape), torch.zeros_like(corner_mask())

    def velocity(noisy, sigmas, *rest):
        return torch.tanh(noisy) * sigmas.view(-1, 1, 1, 1, 1, 1)

    path = list(RectifiedFlow(**options).predictions(velocity, noise, x, nothing, steps=4))
    state, sigmas = noise, sampling_sigmas(4, 3.0)
    for sigma, following in zip(sigmas, sigmas[1:]):
        state = state + (following - sigma) * velocity(state, sigma.expand(len(x)))
    torch.testing.assert_close(path[-1], state)
    torch.testing.assert_close(path[0], noise - velocity(noise, torch.ones(len(x))))


def test_steps_keep_a_share_of_the_noise():
    x, noise, nothing = grid(), torch.randn(grid().shape), torch.zeros_like(corner_mask())
    fed = []

    def data(noisy, sigmas, *rest):
        fed.append(noisy)
        return x

    flow = RectifiedFlow(prediction="data", noise_scale=0.5)
    list(flow.predictions(data, noise, x, nothing, steps=4))
    for k, (state, sigma) in enumerate(zip(fed, sampling_sigmas(4, 1.0).tolist())):
        torch.testing.assert_close(state, x + 0.5**k * sigma * (noise - x))


def test_guidance_extrapolates_from_the_empty_caption():
    x, mask, text = grid(), corner_mask(), torch.ones(2, 1, 3)

    def network(noisy, sigmas, text, *rest):
        return torch.full_like(noisy, float(text.mean()))

    guidance = Guidance(torch.tensor([3.0, 1.0]), torch.full_like(text, 0.5))
    out = RectifiedFlow(prediction="data").denoise(network, x, 1.0, x, mask, text, guidance)
    assert torch.allclose(out[0], torch.tensor(0.5 + 3 * 0.5)) and torch.allclose(out[1], torch.tensor(1.0))


def test_unknown_prediction_is_named():
    with pytest.raises(ValueError, match="'noise'"):
        RectifiedFlow(prediction="noise")


def gaussian_flow(order, steps, std=0.5):
    """The end of the path of one starting point for data N(0, std^2), whose exact end is std times the noise."""
    noise = torch.linspace(-2, 2, 8, dtype=torch.float64).view(1, 1, 1, 8, 1, 1)

    def velocity(noisy, sigmas, *rest):
        sigma = sigmas.view(-1, 1, 1, 1, 1, 1)
        clean = noisy * (1 - sigma) * std**2 / ((1 - sigma) ** 2 * std**2 + sigma**2)
        return (noisy - clean) / sigma

    class Double(RectifiedFlow):
        def call(self, network, noisy, sigmas, *rest):
            return network(noisy, sigmas)

    flow, nothing = Double(sampling_order=order), torch.zeros(1, 1, 1, dtype=torch.bool)
    *_, sample = flow.predictions(velocity, noise, noise, nothing, steps=steps)
    return float((sample - std * noise).abs().max())


@pytest.mark.parametrize("order", [1, 2])
def test_error_falls_with_the_order_of_the_sampler(order):
    errors = [gaussian_flow(order, steps) for steps in (40, 80, 160)]
    for coarse, fine in zip(errors, errors[1:]):
        assert 0.8 * 2**order < coarse / fine < 1.25 * 2**order


def test_the_second_order_needs_no_more_evaluations_and_is_more_exact():
    calls = []

    def network(noisy, *rest):
        calls.append(1)
        return 0 * noisy

    x = grid()
    list(RectifiedFlow(sampling_order=2).predictions(network, x, x, corner_mask(), steps=4))
    assert len(calls) == 4
    assert gaussian_flow(2, 8) < 0.5 * gaussian_flow(1, 8)


def test_training_noise_levels():
    draw = RectifiedFlow(logit_std=None).draw_sigmas(20000, torch.Generator().manual_seed(0))
    assert abs(float(draw.mean()) - 0.5) < 0.01 and abs(float(draw.std()) - 12**-0.5) < 0.01
    shifted = RectifiedFlow(logit_std=None, shift=3.0).draw_sigmas(20000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(shifted, shift_sigmas(draw, 3.0))
    with pytest.raises(ValueError, match="sampling_order is 3"):
        RectifiedFlow(sampling_order=3)
