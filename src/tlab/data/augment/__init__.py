"""Augmentation of training images, and the transforms of evaluation."""
