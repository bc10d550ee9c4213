"""`audit.html`: the findings as one self-contained page."""
