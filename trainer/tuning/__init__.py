"""Parts of ``python -m trainer.tune``."""
