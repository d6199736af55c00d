"""Room ``evaluate`` of the house; see docs/architecture.md."""
