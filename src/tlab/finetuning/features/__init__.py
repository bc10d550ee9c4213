"""What frozen stages return, computed once for each image and view, and kept."""
