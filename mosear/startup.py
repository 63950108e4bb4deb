"""A quick start of a process: what imports cost beyond the code that is needed."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def quick_imports(without: Sequence[str] = ()) -> Iterator[None]:
    """Imports inside the block are quicker.

    The garbage collector, which would look through a million new objects that all stay, waits. Where torch has not been
    imported before, optional libraries that others import wherever they are installed are as if they were not, and the
    collector leaves what is there alone when the process ends, too.

    Args:
        without: names of those libraries.
    """
    collecting = gc.isenabled()
    hidden = [] if "torch" in sys.modules else [name for name in without if name not in sys.modules]
    gc.disable()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import fails, find_spec finds none
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
        if hidden and "triton" not in sys.modules:  # its bindings complain of objects that outlive the process's end
            gc.freeze()
        if collecting:
            gc.enable()
