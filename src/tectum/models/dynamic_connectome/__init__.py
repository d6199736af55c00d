"""Dynamic functional connectome: affinity of derivatives, non-negative tensor factorisation, weighted block models."""
