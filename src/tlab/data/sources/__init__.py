"""Where images and labels come from: files are found, checked, split and looked over."""
