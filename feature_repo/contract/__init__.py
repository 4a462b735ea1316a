"""What training and serving share, so that neither can drift from the other.

Nothing here imports torch, Feast or DuckDB: the contract is numpy and pyarrow alone
(``feast_online`` is the one module that a Feast process loads).
"""
