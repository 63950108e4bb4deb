"""The outermost room: train and evaluate flows, config validation, strategies. Nothing else imports it."""

import logging

# bitsandbytes, which PEFT imports, warns at import about an optional kernel package. It changes nothing for us, and
# this is the first room that train.py, eval.py and predict enter.
logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
