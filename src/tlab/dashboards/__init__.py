"""What a run shows: callbacks that draw for TensorBoard, and the tables on the console. Nothing else draws."""
