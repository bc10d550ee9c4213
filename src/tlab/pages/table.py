"""Tables as HTML, which `parts/table.js` sorts and filters."""

from html import escape

Cell = tuple[str, float | str | None]  # HTML, and what it is sorted by


def table(name: str, caption: str, heads: list[str], rows: list[tuple[str, list[Cell]]]) -> str:
    """Return a table of rows, each given by its attributes and cells."""
    kinds = ["text" if isinstance(key, str) else "number" for _, key in rows[0][1]]
    head = "".join(
        f"<th scope='col' class='{kind}' aria-sort='none'><button type='button'>{escape(text)}</button></th>"
        for text, kind in zip(heads, kinds, strict=True)
    )
    body = "".join(f"<tr {attributes}>{''.join(map(_cell, cells))}</tr>" for attributes, cells in rows)
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{caption}'><table id='{name}'>"
        f"<caption>{caption} <output></output></caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    text, key = cell
    kind = " class='text'" if isinstance(key, str) else ""
    return f"<td{kind} data-key='{'' if key is None else escape(str(key))}'>{text}</td>"
