"""Sections 3.2 and 3.3: frozen networks for pictures and texts, and flows on their features."""
