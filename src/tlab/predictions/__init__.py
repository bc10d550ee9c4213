"""Predictions for very many images: what to predict, with which models, and where the rows go."""
