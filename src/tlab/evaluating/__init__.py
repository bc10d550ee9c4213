"""What a trained run is worth on a split, in figures and as a report."""
