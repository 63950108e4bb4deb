"""``python train.py +experiment=mosear`` is ``mosear train`` in a checkout."""

from mosear.commands.train import main

if __name__ == "__main__":
    main()
