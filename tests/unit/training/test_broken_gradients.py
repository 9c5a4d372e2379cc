"""One gradient that is not finite must not cost the training its weights."""

import pytest
import torch

from medai.training.click_trainer import _drop_broken_gradients


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_with_a_broken_gradient_is_left_out(value):
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.AdamW(weights, lr=0.1)
    optimizer.register_step_pre_hook(_drop_broken_gradients)
    weights[0].grad, weights[1].grad = torch.full((3,), value), torch.ones(2)
    optimizer.step()
    assert all(torch.equal(weight, torch.ones_like(weight)) for weight in weights)
    weights[0].grad, weights[1].grad = torch.ones(3), torch.ones(2)
    optimizer.step()
    assert all(torch.all(weight < 1.0) for weight in weights)
