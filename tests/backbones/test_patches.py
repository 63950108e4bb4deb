"""Patches by one product: the same numbers and the same weights as the convolution that a tower is built with."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.patches import PatchProjection, project_patches_by_product


def projections(backbone: OmniBackbone) -> list[PatchProjection]:
    return [module for module in backbone.model.modules() if isinstance(module, PatchProjection)]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_tower_projects_as_its_convolution(backbone: OmniBackbone, dtype: torch.dtype) -> None:
    (own,) = projections(backbone)
    own = deepcopy(own).to(dtype)
    reference = nn.Conv3d(own.in_channels, own.out_channels, own.kernel_size, own.stride, bias=own.bias is not None)  # type: ignore
    reference.load_state_dict(own.state_dict())
    patches = torch.randn(7, own.in_channels, *own.kernel_size, dtype=dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(own(patches), reference.to(dtype)(patches), **tolerance)
    assert own(patches).shape == (7, own.out_channels, 1, 1, 1)


@torch.no_grad()
def test_larger_pictures_go_the_way_of_the_convolution() -> None:
    model = nn.Sequential(nn.Conv3d(3, 5, (2, 4, 4), (2, 4, 4)))
    pictures = torch.randn(2, 3, 4, 8, 12)
    expected = model(pictures)
    project_patches_by_product(model)
    assert isinstance(model[0], PatchProjection) and torch.equal(model(pictures), expected)


@pytest.mark.parametrize("options", [{"stride": 1}, {"stride": 2, "padding": 1}, {"stride": 2, "dilation": 2}])
def test_what_overlaps_is_left_alone(options: dict[str, int]) -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, 2, **options), nn.Conv3d(4, 4, 2, 2, groups=2), nn.Conv2d(4, 4, 2, 2))
    project_patches_by_product(model)
    assert [type(module) for module in model] == [nn.Conv3d, nn.Conv3d, nn.Conv2d]
