"""Synthetic outliers x' (section 2.2): `image` for pictures, `text` for texts; import the one you need."""
