"""What systemd wants to hear from a `Type=notify` service [source: sd_notify(3)]."""

import asyncio
import os
import socket

_FALLBACK_S = 3600.0


class Notifier:
    """Sends READY, STATUS, WATCHDOG and STOPPING; does nothing outside systemd."""

    def __init__(self, environ: "os._Environ[str] | dict[str, str]") -> None:
        self._path = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        self._watchdog_s = int(usec) / 1e6 if usec.isdigit() else 0.0

    def send(self, *lines: str) -> None:
        """Send state lines such as `READY=1`; systemd that does not listen is no error of ours."""
        if not self._path:
            return
        # A leading @ stands for the NUL of the abstract namespace.
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            try:
                notify.sendto("\n".join(lines).encode(), address)
            except OSError:
                return

    async def run(self) -> None:
        """Feed the watchdog at half its period, for ever."""
        while True:
            if self._watchdog_s:
                self.send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2 or _FALLBACK_S)
