"""Training: the only place that optimises. TorchRec tables, losses, loop, evaluation, export."""

import os

# Read when torch is loaded. Threads that spin while they wait for each other slow training down
# ten-fold where other programs want the same cores; asleep they cost next to nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
