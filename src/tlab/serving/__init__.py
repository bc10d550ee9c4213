"""A trained run on a port of this machine: the page to try it on, and the endpoint for programs."""
