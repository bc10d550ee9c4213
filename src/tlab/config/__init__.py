"""What a run is, in words: its keys and their bounds, and how the command line and YAML files become them."""
