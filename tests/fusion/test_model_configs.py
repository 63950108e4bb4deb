"""Every file of conf/model builds its model from widths and a number of outputs."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mosear.fusion.model import FusionModel
from tests.helpers.fusion_models import random_batch

CONF = Path(__file__).parents[2] / "conf" / "model"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_model_is_built_from_its_file(path: Path) -> None:
    dimensions = {"video": 35, "audio": 74, "text": 768}
    model = instantiate(OmegaConf.load(path), dimensions=dimensions, outputs=1 if path.stem == "self_mm" else 6)
    assert isinstance(model, FusionModel) and type(model).__module__ == f"mosear.fusion.models.{path.stem}"
    with torch.no_grad():
        values = model.eval()(random_batch(dimensions)).values
    assert values.shape == (4, model.outputs) and values.isfinite().all()
