"""The only training loop of the project, and the step it takes."""

from flowood_core.train.loop import History, NonFinite, Settings, draw_batch, draw_batches, fit, fit_together

__all__ = ["History", "NonFinite", "Settings", "draw_batch", "draw_batches", "fit", "fit_together"]
