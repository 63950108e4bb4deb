"""Steering policies: settings and pure functions."""
