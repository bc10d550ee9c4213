"""Studies: the runs that a question about transfer needs, and the figure that answers it."""
