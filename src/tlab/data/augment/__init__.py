"""What happens to a training image, and how evaluation sees one."""
