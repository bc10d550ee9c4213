"""Files and labels to batches of uint8 tensors."""
