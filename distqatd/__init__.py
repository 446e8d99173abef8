"""DistQat: train one model together on scattered machines. See docs/architecture.md."""

__version__ = "0.1.0"
