"""The built-in sample dataset of drawn images."""
