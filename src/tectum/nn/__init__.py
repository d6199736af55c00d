"""Room ``nn`` of the house; see docs/architecture.md."""
