"""Room ``preprocess`` of the house; see docs/architecture.md."""
