"""Tuning of adapters on a frozen backbone."""
