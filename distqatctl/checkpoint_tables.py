"""Checkpoints as text for people."""

from distqatctl import text
from distqatctl.tables import console
from distqatd.api.checkpoint_schema import CheckpointEntry, Checkpoints, Exported, Sampled

_HEADER = ("OUTER STEP", "AGE", "SIZE", "BATCHES", "STATE")


def show(found: Checkpoints, now_unix_s: float) -> None:
    """Print what a folder holds, and where it is."""
    out = console()
    if not found.checkpoints:
        out.print(f"no checkpoint in {text.clean(found.folder)}", soft_wrap=True)
        return
    rows = [_HEADER, *(_row(entry, now_unix_s) for entry in found.checkpoints)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.print("   ".join(cells).rstrip(), soft_wrap=True)
    out.print(f"in {text.clean(found.folder)}", soft_wrap=True)


def _row(entry: CheckpointEntry, now_unix_s: float) -> tuple[str, ...]:
    is_known = entry.published_unix_s is not None
    age = now_unix_s - entry.published_unix_s if entry.published_unix_s is not None else None
    return (
        str(entry.outer_step),
        text.ago(age),
        text.bytes_text(entry.num_bytes) if is_known else "-",
        text.number(entry.num_batches) if is_known else "-",
        "ok" if entry.state == "ok" else f"corrupt: {text.clean(entry.reason)}",
    )


def exported_text(done: Exported) -> str:
    """Return what was exported, in one line, and a line for each reason why something was not."""
    size = text.bytes_text(done.num_bytes)
    what = f"outer step {done.outer_step} of {text.clean(done.run)}"
    lines = [f"{text.clean(done.file)}: {what}, {text.plural(done.num_tensors, 'tensor')}, {size}"]
    for left in done.left:
        names = ", ".join(map(text.clean, left.modules))
        lines.append(
            f"{text.plural(len(left.modules), 'layer')}: {text.clean(left.reason)}: {names}"
        )
    return "\n".join(lines)


def sampled_text(done: Sampled) -> str:
    """Return what was drawn, in one line."""
    what = f"outer step {done.outer_step} of {text.clean(done.run)}"
    return f"{text.clean(done.file)}: {text.plural(done.num_images, 'image')}, {what}"
