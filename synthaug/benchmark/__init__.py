"""The utility study: one detector trained on real, synthetic and mixed films, measured on the same real test films."""
