"""Every error that shoprec raises on purpose.

ShoprecError
├── BadInput            the caller's data, arguments or request are wrong
│   └── ConfigError     a setting is unknown, out of range or contradicts another
├── ArtifactError       a file, run or release is missing, truncated or foreign
│   └── SchemaMismatch  an artifact was made with another list of features
└── StoreUnavailable    the online store cannot be reached
"""

from __future__ import annotations


class ShoprecError(Exception):
    """Base of all errors of this project; its text is a sentence for the user."""


class BadInput(ShoprecError):
    """The caller's data, arguments or request are wrong."""


class ConfigError(BadInput):
    """A setting is unknown, out of range or contradicts another."""


class ArtifactError(ShoprecError):
    """A file, run or release is missing, truncated or was made by something else."""


class SchemaMismatch(ArtifactError):
    """An artifact was made with another list of features."""


class StoreUnavailable(ShoprecError):
    """The online store cannot be reached."""


def require(holds: bool, sentence: str) -> None:
    """Check a setting.

    Raises:
        ConfigError: it does not hold; its text is ``sentence``.
    """
    if not holds:
        raise ConfigError(sentence)
