"""Callbacks that draw for TensorBoard, and the tables on the console."""
