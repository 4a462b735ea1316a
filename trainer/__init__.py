"""Training: the only place that optimises. TorchRec tables, losses, loop, evaluation, export."""
