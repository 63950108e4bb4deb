"""Every file of conf/model builds its model from widths and a number of outputs."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from mosear.fusion.model import FusionModel
from tests.helpers.fusion_models import random_batch

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_model_is_built_from_its_file(path: Path) -> None:
    dimensions = {"video": 48, "audio": 64, "text": 768}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = compose("train", overrides=["+experiment=fusion", f"model={path.stem}"]).model
    model = instantiate(settings, dimensions=dimensions, outputs=1 if path.stem == "self_mm" else 6)
    assert (
        isinstance(model, FusionModel)
        and type(model).__module__ == f"mosear.fusion.models.{path.stem.removesuffix('_small')}"
    )
    with torch.no_grad():
        values = model.eval()(random_batch(dimensions)).values
    assert values.shape == (4, model.outputs) and values.isfinite().all()
