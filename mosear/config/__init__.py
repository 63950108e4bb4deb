"""Checks of configurations: all mistakes at once, before anything is built."""
