"""What every self-contained HTML page of tlab is made of: frame, style, tables and the look of charts."""
