"""Commands of ``python -m mosear NAME`` that stand above all rooms."""
