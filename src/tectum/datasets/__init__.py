"""Room ``datasets`` of the house; see docs/architecture.md."""
