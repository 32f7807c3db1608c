"""Code that the four scripts share."""
