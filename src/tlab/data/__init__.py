"""From image files and labels to batches of uint8 tensors."""
