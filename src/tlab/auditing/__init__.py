"""What is wrong with the data of a run, before it is trained on."""
