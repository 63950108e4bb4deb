"""Keeps tests from seeing one another through global state.

torch is touched only if something has imported it: the tests that need none stay fast, and a test that claims that an
import is light is not spoiled by this file.
"""

import random
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

SEED = 1234
STARTERS = {"subprocess", "tests.helpers.processes", "tests.helpers.torchrun", "tests.helpers.training_child"}
"""Modules that start processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first: they take longest, and short ones level what the workers have left."""
    files = {item.path: getattr(item, "module", None) for item in items}
    waiting = {path: module is None or not starts_processes(module) for path, module in files.items()}
    items.sort(key=lambda item: waiting[item.path])


def starts_processes(module: ModuleType) -> bool:
    """Whether a test module imports what starts processes."""
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name in STARTERS:
            return True
    return False


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
