"""Skips tests that need what this machine does not have, and says what that is.

    @RunIf(min_gpus=1, bitsandbytes=True)
    def test_nf4_on_the_gpu() -> None: ...

Nothing is imported to find out, except torch when GPUs are asked for.
"""

import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import pytest


def RunIf(
    *,
    min_gpus: int = 0,
    deepspeed: bool = False,
    bitsandbytes: bool = False,
    namespaces: bool = False,
    linux: bool = False,
) -> pytest.MarkDecorator:
    """Returns a mark that skips a test unless every requirement is met; the reason names all that are not.

    Args:
        min_gpus: Number of CUDA devices needed.
        deepspeed: Needs DeepSpeed.
        bitsandbytes: Needs bitsandbytes.
        namespaces: Needs the right to create network namespaces (to play several hosts on one).
        linux: Needs Linux.
    """
    unmet = []
    if linux and not sys.platform.startswith("linux"):
        unmet.append(f"Linux (this is {sys.platform})")
    for name, wanted in {"deepspeed": deepspeed, "bitsandbytes": bitsandbytes}.items():
        if wanted and find_spec(name) is None:
            unmet.append(f"{name} (not installed)")
    if min_gpus and (found := _gpu_count()) < min_gpus:
        unmet.append(f"{min_gpus} GPUs (found {found})")
    if namespaces and not _can_create_network_namespaces():
        unmet.append("network namespaces (`unshare --net` is not permitted here)")
    return pytest.mark.skipif(bool(unmet), reason=f"needs {', '.join(unmet)}")


@cache
def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


@cache
def _can_create_network_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    attempt = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return attempt.returncode == 0
