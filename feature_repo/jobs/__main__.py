"""``python -m feature_repo.jobs``."""

from __future__ import annotations

import sys

from feature_repo.jobs.cli import main

sys.exit(main(sys.argv[1:]))
