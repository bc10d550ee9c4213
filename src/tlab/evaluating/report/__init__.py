"""`report_<split>.html`: an evaluation as one self-contained page."""
