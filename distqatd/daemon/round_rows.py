"""Rounds of this daemon's experts as rows of a reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distqatd.api.round_schema import Round, RoundWait, SliceProgress

if TYPE_CHECKING:  # these modules import torch
    from distqatd.averaging.phases import Waiting
    from distqatd.averaging.progress import SliceProgress as OfSlice
    from distqatd.averaging.records import RoundRecord


def wait_row(wait: Waiting) -> RoundWait:
    """Return a round that is open; its outer step is the one that it is to make."""
    progress = wait.progress
    return RoundWait(
        outer_step=wait.outer_step + 1,
        stage=wait.stage,
        phase=wait.phase,
        ready=wait.ready,
        waiting_for=wait.waiting_for,
        seconds_left=wait.seconds_left,
        slices=tuple(map(_slice_row, progress.slices)) if progress is not None else (),
        behind=progress.waits_for if progress is not None else (),
    )


def _slice_row(part: OfSlice) -> SliceProgress:
    return SliceProgress(
        owner=part.owner,
        chunks_done=part.chunks_done,
        chunks=part.chunks,
        bytes_done=part.bytes_done,
        num_bytes=part.num_bytes,
    )


def round_row(record: RoundRecord) -> Round:
    """Return a round that has ended."""
    return Round(
        outer_step=record.outer_step,
        stage=record.stage,
        outcome=record.outcome,
        reason=record.reason,
        members=tuple(record.members),
        missing=tuple(record.missing),
        weights=dict(record.weights),
        bytes_sent=record.bytes_sent,
        seconds=record.seconds,
        ended_unix_s=record.ended_unix_s,
        shares=dict(record.shares),
        bandwidths=dict(record.bandwidths),
        slicing=record.slicing,
        fragment=record.fragment,
    )
