"""Many runs from one command: their names, what is left to do, carrying it out, and what came out.

All that is known of a run comes from its directory, so a sweep is resumed by giving its command again.
"""
