"""Readings of figures and tables: sentences by hand, each printed only where the numbers bear it out."""

from collections.abc import Sequence

__all__ = ["read", "sentences"]

Said = tuple[bool, str, str] | tuple[bool, str]


def sentences(said: Sequence[Said]) -> str:
    """The sentences whose condition holds, and for the others what is said instead (nothing, where no third is given).

    A sentence is written for the numbers of one profile; the condition keeps it from being said of others.
    """
    kept = [part[1] if part[0] else (part[2] if len(part) > 2 else "") for part in said]
    return " ".join(filter(None, kept))


def read(*said: Said, title: str = "Reading") -> None:
    """Show a reading: (condition, sentence, otherwise) one after another; nothing where no sentence is left.

    Example:
        >>> sentences([(44.5 < 50, "SVHN is missed.", "SVHN is found."), (False, "Never said.")])
        'SVHN is missed.'
    """
    from IPython.display import Markdown, display

    if text := sentences(said):
        display(Markdown(f"**{title}.** {text}"))
