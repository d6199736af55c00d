"""Helpers shared by the tests: a pretend accelerator for machines without one."""
