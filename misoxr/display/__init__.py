"""Pictures: ``maps`` draws imagery, probabilities and class maps; ``scores`` draws a comparison of models."""
