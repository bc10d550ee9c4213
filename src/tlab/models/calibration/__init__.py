"""What a network's probabilities are worth: reliability, a temperature, and measures with intervals."""
