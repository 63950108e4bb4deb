"""What a user reads when a clip, a label or a config cannot be used."""

from __future__ import annotations

import os
import signal

import pytest
from torch.utils.data import DataLoader, Dataset

from mosear.data.container import MediaError
from mosear.data.dataset import BadClipError
from mosear.data.rows import ManifestError
from mosear.problems import ConfigError, Problem
from mosear.runtime.told_errors import told_errors

SENTENCE = "Clip 'a': a.mp4: truncated: its index is cut. To go on without bad clips, set data.on_bad_media=quarantine."


class Failing(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise BadClipError(SENTENCE)


@pytest.mark.parametrize(
    "error",
    [
        BadClipError(SENTENCE),
        MediaError("a.mp4", "truncated", "its index is cut"),
        ManifestError("m.parquet", ["row 3: duplicate id 'a', first in row 1"]),
        ConfigError([Problem("data.train", "m.parquet", "It has no clips.", "Name another one.")]),
    ],
)
def test_errors_of_the_user_end_with_their_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, told_errors():
        raise error
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{error}\n"


def test_an_error_from_a_loaders_worker_is_its_sentence_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, told_errors():
        list(DataLoader(Failing(), num_workers=1))
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{SENTENCE}\n"


class Dying(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


def test_a_loaders_worker_that_a_file_has_ended_is_told_with_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, told_errors():
        list(DataLoader(Dying(), num_workers=1))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "DataLoader worker" in said and "data.decode.mode=process" in said and "Traceback" not in said


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match="a mistake of ours"), told_errors():
        raise ValueError("a mistake of ours")
