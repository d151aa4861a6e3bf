"""Errors of the training."""

from __future__ import annotations

from headrace.errors import HeadraceError


class InvalidCorpus(HeadraceError):
    """There is no text to train on, or none to evaluate with."""

    reason = "InvalidCorpus"


class InvalidRecipe(HeadraceError):
    """A recipe has a value that cannot be."""

    reason = "InvalidRecipe"
