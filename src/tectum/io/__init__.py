"""Readers: one file a family, one function for all of them."""

from .read import read

__all__ = ["read"]
