"""Keeps tests from seeing one another through global state.

torch is touched only if something has imported it: the tests that need none stay fast, and a test that claims that an
import is light is not spoiled by this file.
"""

import random
import sys
from collections.abc import Iterator

import pytest

SEED = 1234


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(SEED)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(SEED)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Puts back torch's default dtype, thread count, gradient mode and determinism; closes process groups."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        _close_process_group()
        return
    dtype, threads, grad = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # the setter is slow: it imports the compiler
        torch.use_deterministic_algorithms(deterministic)
    _close_process_group()


def _close_process_group() -> None:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
