"""report.html: one page that holds all it shows."""
