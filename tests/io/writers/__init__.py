"""Minimal writers of the formats that the readers are tested on, in their documented layouts."""
