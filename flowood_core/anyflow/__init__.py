"""The method on anybody's flow and data: check, diagnosis, correction and a detector."""
