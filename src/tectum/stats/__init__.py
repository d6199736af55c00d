"""Room ``stats`` of the house; see docs/architecture.md."""
