"""Room ``plot`` of the house; see docs/architecture.md."""
