"""Pictures of the documentation, drawn from its own tables: ``python -m benchmarks.plots``."""
