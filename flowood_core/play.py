"""Cells to play with: sliders where somebody looks, a still picture where a notebook is executed headless."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["is_watched", "play"]


def is_watched() -> bool:
    """Whether the kernel was started by a page that can show a slider: Jupyter, Colab or VS Code.

    papermill and nbconvert start kernels of their own and leave none of these signs. FLOWOOD_STILL=1 says no.
    """
    if os.environ.get("FLOWOOD_STILL"):
        return False
    return "google.colab" in sys.modules or any(v in os.environ for v in ("JPY_SESSION_NAME", "VSCODE_PID"))


def play(draw: Callable[..., Any], **choices: Sequence[Any]) -> None:
    """Call `draw` with one value of each choice: by sliders where somebody looks, else once with the middle values.

    Args:
        draw: draws a figure or prints; its result is ignored.
        choices: argument of draw: the values to choose from, in order.

    >>> play(lambda radius: print("radius", radius), radius=[0, 1, 2])
    radius 1
    """
    empty = [name for name, values in choices.items() if not len(values)]
    if empty:
        raise ValueError(f"expected at least one value to choose from, got none for {', '.join(empty)}")
    middle = {name: values[len(values) // 2] for name, values in choices.items()}
    if is_watched():
        try:
            import ipywidgets
        except ImportError:
            print("pip install ipywidgets, and this cell has sliders")
        else:
            sliders = {
                name: ipywidgets.SelectionSlider(options=list(values), value=middle[name], description=name)
                for name, values in choices.items()
            }
            ipywidgets.interact(draw, **sliders)
            return
    draw(**middle)
