"""Numbers, durations and foreign text as people read them."""

_BYTE_UNITS = ("B", "KB", "MB", "GB", "TB")


def clean(text: str) -> str:
    """Escape what could move a terminal's cursor or fake a line: peers choose some texts."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def number(value: float) -> str:
    """Return a count with thin groups, whole above ten: `18 204`, `412`, `3.4`."""
    text = f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
    return text.replace(",", " ")


def bytes_text(count: float) -> str:
    """Return a size in decimal units: `4.2 MB`."""
    for unit in _BYTE_UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_BYTE_UNITS[-1]}"


def duration(seconds: float) -> str:
    """Return a duration in the units that matter: `40 ms`, `0.8 s`, `12 s`, `2 m 05 s`."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} m"


def ago(seconds: float | None) -> str:
    """Return an age, or a dash for never."""
    return "-" if seconds is None else f"{duration(seconds)} ago"


def loss_text(loss: float | None) -> str:
    """Return a loss with the digits that matter, or a dash while there is none."""
    return "-" if loss is None else f"{loss:.3f}"


def plural(count: int, noun: str) -> str:
    """Return `1 gap`, `2 gaps`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
