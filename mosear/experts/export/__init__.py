"""MoSE adapters in other formats."""
