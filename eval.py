"""``python eval.py run=outputs/mosear/<time>`` is ``mosear evaluate`` in a checkout."""

from mosear.commands.evaluate import main

if __name__ == "__main__":
    main()
