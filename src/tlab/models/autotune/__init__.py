"""What is fastest on this machine: precision and compiler."""
