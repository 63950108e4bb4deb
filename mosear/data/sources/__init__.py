"""Importers: one module per data set, each turning the published layout into manifest rows.

`python -m mosear prepare NAME --root DIR --out manifest.parquet` runs one; docs/importers.md lists them. We ship
importers, never data.
"""

from __future__ import annotations

from importlib import import_module

from mosear.data.sources.base import LayoutError, Reading, Remux, Request, Row, Source

__all__ = ["LayoutError", "NAMES", "Reading", "Remux", "Request", "Row", "Source", "source"]

_PLACES = {
    "crema-d": ("crema_d", "CREMA_D"),
    "crema-d-conflict": ("crema_d", "CREMA_D_CONFLICT"),
    "ravdess": ("ravdess", "RAVDESS"),
    "ravdess-conflict": ("ravdess_conflict", "RAVDESS_CONFLICT"),
    "meld": ("meld", "MELD"),
    "mer2023": ("mer2023", "MER2023"),
    "mer2024": ("mer_later", "MER2024"),
    "mer2025": ("mer_later", "MER2025"),
    "mer2026": ("mer_later", "MER2026"),
    "ch-sims": ("sentiment", "CH_SIMS"),
    "ch-sims-v2": ("sentiment", "CH_SIMS_V2"),
    "cmu-mosi": ("sentiment", "CMU_MOSI"),
    "cmu-mosei": ("sentiment", "CMU_MOSEI"),
    "iemocap-4": ("iemocap", "IEMOCAP_4"),
    "iemocap-6": ("iemocap", "IEMOCAP_6"),
    "dfew": ("dfew", "DFEW"),
    "mafw": ("mafw", "MAFW"),
    "emer": ("emer", "EMER"),
    "ca-mer": ("ca_mer", "CA_MER"),
    "emomm": ("emomm", "EMOMM"),
    "affwild2": ("affwild2", "AFFWILD2"),
}

NAMES: tuple[str, ...] = tuple(_PLACES)


def source(name: str) -> Source:
    """The importer of that name; only its own module is imported.

    Raises:
        ValueError: There is none.
    """
    if name not in _PLACES:
        raise ValueError(f"unknown data set {name!r}; there are importers for {', '.join(NAMES)}")
    module, attribute = _PLACES[name]
    found = getattr(import_module(f"{__name__}.{module}"), attribute)
    assert isinstance(found, Source) and found.name == name
    return found
