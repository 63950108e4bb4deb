"""Reading published pickles without running what is in them."""

from mosear.data.unpickling.reader import load_pickle, read_pickle
from mosear.data.unpickling.stand_ins import UnsafePickleError

__all__ = ["UnsafePickleError", "load_pickle", "read_pickle"]
