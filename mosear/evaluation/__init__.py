"""Evaluation: answers, metrics, intervals, control baselines, prediction files and the report.

Nothing in this package needs torch, so results can be scored and compared on any machine.
"""
