"""Cells to play with: sliders, a file or a text where somebody looks; a still picture where they run headless."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowood_core.system.progress import is_watched

__all__ = ["ask", "pick", "play"]


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
    if (ipywidgets := _widgets()) is None:
        draw(**middle)
        return
    sliders = {
        name: ipywidgets.SelectionSlider(options=list(values), value=middle[name], description=name)
        for name, values in choices.items()
    }
    ipywidgets.interact(draw, **sliders)


def pick(
    draw: Callable[[Mapping[str, Any]], Any], examples: Mapping[str, Any], *, accept: str = "image/*"
) -> None:
    """Call `draw` with one named thing, an example or an uploaded file; with all examples where nobody looks.

    Args:
        draw: takes {name: thing}, where the thing is an example or the bytes of a file. What it refuses with
            a ValueError is shown as a sentence.
        examples: to choose from.
        accept: which files the dialogue offers.

    >>> pick(lambda things: print(sorted(things)), {"a": 1, "b": 2})
    ['a', 'b']
    """
    if not examples:
        raise ValueError("expected at least one example, got none")
    if (ipywidgets := _widgets()) is None:
        draw(examples)
        return
    out = ipywidgets.Output()
    choice = ipywidgets.Dropdown(options=list(examples), description="picked")
    upload = ipywidgets.FileUpload(accept=accept, multiple=False, description="upload")
    choice.observe(lambda change: _drawn(out, draw, {change["new"]: examples[change["new"]]}), "value")
    upload.observe(lambda change: _drawn(out, draw, _uploaded(change["new"])), "value")
    _show(ipywidgets.VBox([ipywidgets.HBox([choice, upload]), out]))
    _drawn(out, draw, {choice.value: examples[choice.value]})


def ask(draw: Callable[[str], Any], example: str) -> None:
    """Call `draw` with a text that the reader types, and with the example where nobody looks.

    >>> ask(lambda text: print(len(text)), "example")
    7
    """
    if (ipywidgets := _widgets()) is None:
        draw(example)
        return
    box = ipywidgets.Textarea(example, layout={"width": "100%", "height": "8em"})
    button, out = ipywidgets.Button(description="score"), ipywidgets.Output()
    button.on_click(lambda _: _drawn(out, draw, box.value))
    _show(ipywidgets.VBox([box, button, out]))
    _drawn(out, draw, example)


def _widgets() -> Any:
    """ipywidgets where somebody looks, else None."""
    if not is_watched():
        return None
    try:
        import ipywidgets
    except ImportError:
        print("pip install ipywidgets, and this cell can be played with")
        return None
    return ipywidgets


def _show(widget: Any) -> None:
    from IPython.display import display

    display(widget)


def _drawn(out: Any, draw: Callable[[Any], Any], thing: Any) -> None:
    """What draw shows, in place of what it showed before."""
    if not thing:  # an upload that was cleared
        return
    out.clear_output(wait=True)
    with out:
        try:
            draw(thing)
        except ValueError as error:
            print(error)


def _uploaded(value: Any) -> dict[str, bytes]:
    """{name: bytes} of an upload: ipywidgets 8 gives a tuple of files, 7 (hosted notebooks) a dict by name."""
    files = value.items() if isinstance(value, Mapping) else [(f["name"], f) for f in value]
    return {name: bytes(f["content"]) for name, f in files}
