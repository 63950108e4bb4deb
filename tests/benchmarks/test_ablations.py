"""Every row of the ablations is a configuration that train.py takes."""

import pytest
from hydra import compose, initialize_config_dir

from benchmarks.ablations import DETAILS, VARIATIONS
from benchmarks.options import CONF
from benchmarks.results import changed, recipe_of_before
from mosear.config.rules import SUPPLIED, TRAIN_KEYS, TRAIN_RULES
from mosear.config.validation import validate


def test_a_change_replaces_what_it_changes() -> None:
    assert changed(["a=1", "b.c=2"], ["b.c=3", "d=[x=1]"]) == ["a=1", "b.c=3", "d=[x=1]"]


@pytest.mark.parametrize("name", [*VARIATIONS, *DETAILS])
def test_rows_validate_and_differ_from_the_short_recipe(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        short, row = (
            compose(
                "train",
                ["+experiment=mosear", "run_dir=/tmp/run", *changed(recipe_of_before("mosear", "short"), change)],
            )
            for change in ([], (VARIATIONS | DETAILS)[name])
        )
    validate(row, rules=TRAIN_RULES, allowed_keys=TRAIN_KEYS, supplied=SUPPLIED)
    assert row != short
