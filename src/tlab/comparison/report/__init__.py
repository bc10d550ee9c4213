"""`report.html`: the comparison as one self-contained page."""
