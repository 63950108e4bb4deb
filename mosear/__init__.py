"""mosear: omni-modal language models that notice when face and voice disagree.

Importing this package is cheap: it loads no torch. It is enough for PEFT to load MoSE adapters. The rooms
(``mosear.backbones``, ``mosear.experts``, ``mosear.steering``, ...) are imported by name where they are needed.
"""

from mosear.moved import say_where_modules_are
from mosear.registration import register_with_peft

__version__ = "0.1.0.dev0"

say_where_modules_are()
register_with_peft()
