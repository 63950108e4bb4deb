"""An on-disk cache of what the frozen encoders put out, so that later epochs decode no video.

``FeatureCache`` stores and finds entries; ``python -m mosear cache`` fills it ahead of a run.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosear.data.cache.store import CacheKey, FeatureCache

__all__ = ["CacheKey", "FeatureCache"]


def __getattr__(name: str) -> Any:
    """Loads the store, and torch with it, when it is asked for: the command's ``--help`` needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mosear.data.cache import store

    return getattr(store, name)
