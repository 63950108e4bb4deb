"""Published features: sequences per modality, converted once into files that are read without pickles."""

from mosear.features.store import FeatureStore

__all__ = ["FeatureStore"]
