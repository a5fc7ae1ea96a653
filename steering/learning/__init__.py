"""Learning through the frozen model, what its methods share: examples, steered passes, losses, one trainer."""
