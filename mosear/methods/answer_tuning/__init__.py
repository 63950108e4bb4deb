"""Tuning on the answer tokens of labelled clips: ``python train.py method=answer_tuning``."""

from mosear.methods.answer_tuning.method import AnswerTuning

__all__ = ["AnswerTuning"]
