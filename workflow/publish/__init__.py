"""About the repository itself: README's results, FINDINGS, model cards and the project's address."""
