"""Room ``io`` of the house; see docs/architecture.md."""
