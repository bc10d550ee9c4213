"""How images are divided into train, val and test: by shares, by folds, with groups whole, and up to a limit."""
