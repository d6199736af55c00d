"""Room ``models`` of the house; see docs/architecture.md."""
