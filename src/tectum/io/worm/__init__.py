"""C. elegans: recordings of many laboratories on one axis of neurons, and connectomes on the same."""
