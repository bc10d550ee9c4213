"""Staged backbones, heads, and the LightningModule around them."""
