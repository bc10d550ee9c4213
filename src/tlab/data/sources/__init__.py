"""Sources of images and labels: finding, checking and splitting files."""
