"""The core: containers, contracts, seeds, devices, files and the three loops. It imports no heavy library but torch."""
