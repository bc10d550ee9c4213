"""Advice before training: probes of frozen features, similarity to the pretraining, and the choice they lead to."""
