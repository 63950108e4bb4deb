"""Loggers of a run, and what they get at its end."""
