"""What the four scripts share."""
