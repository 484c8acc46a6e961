"""Finished runs beside the paper's numbers: tables, claims and the pages that show them."""
