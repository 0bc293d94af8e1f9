"""One end of an HTTP/3 connection as aioquic understands it.

Shared by client.py and server.py. It reports what aioquic saw and judges nothing: the Rust test
does. Where aioquic reads past something (GOAWAY), the raw control stream is kept and parsed here.
"""

import asyncio
import json
import sys

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer, BufferReadError
from aioquic.h3.connection import H3Connection, Setting, encode_frame
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived
from aioquic.quic import events

GOAWAY = 0x07
# Long enough for a busy machine; the Rust side has a limit of its own above it.
LIMIT = 20


class Http3(H3Connection):
    """aioquic's connection, which announces HTTP datagrams too."""

    def _get_local_settings(self):
        return {**super()._get_local_settings(), Setting.H3_DATAGRAM: 1}


class Stream:
    """What came on one request stream."""

    def __init__(self):
        self.headers = []
        self.data = bytearray()
        self.datagrams = []
        self.ended = False
        self.reset = None
        self.stopped = None

    def report(self):
        return {
            "headers": [[[as_text(n), as_text(v)] for n, v in section] for section in self.headers],
            "data": as_text(bytes(self.data)),
            "datagrams": [as_text(d) for d in self.datagrams],
            "ended": self.ended,
            "reset": self.reset,
            "stopped": self.stopped,
        }


class Peer(QuicConnectionProtocol):
    """Keeps everything that happened and lets others wait for more."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.h3 = None
        self.streams = {}
        self.control = bytearray()
        self.control_id = None
        self.closed_with = None
        self.changed = asyncio.Event()

    def stream(self, stream_id):
        return self.streams.setdefault(stream_id, Stream())

    def quic_event_received(self, event):
        if isinstance(event, events.ProtocolNegotiated):
            self.h3 = Http3(self._quic)
        self.note(event)
        if self.h3 is not None:
            for http in self.h3.handle_event(event):
                self.note_http(http)
        self.changed.set()

    def note(self, event):
        if isinstance(event, events.StreamReset):
            self.stream(event.stream_id).reset = event.error_code
        elif isinstance(event, events.StopSendingReceived):
            self.stream(event.stream_id).stopped = event.error_code
        elif isinstance(event, events.ConnectionTerminated):
            self.closed_with = {"code": event.error_code, "reason": event.reason_phrase}
        elif isinstance(event, events.StreamDataReceived):
            self.note_control(event)

    def note_control(self, event):
        if self.control_id is None and event.stream_id & 2 and event.data[:1] == b"\0":
            self.control_id = event.stream_id
        if event.stream_id == self.control_id:
            self.control += event.data

    def note_http(self, event):
        if isinstance(event, HeadersReceived):
            self.stream(event.stream_id).headers.append(event.headers)
        elif isinstance(event, DataReceived):
            self.stream(event.stream_id).data += event.data
        elif isinstance(event, DatagramReceived):
            self.stream(event.stream_id).datagrams.append(event.data)
        if getattr(event, "stream_ended", False):
            self.stream(event.stream_id).ended = True

    def goaways(self):
        """The ids of the GOAWAY frames that came so far."""
        buffer, found = Buffer(data=bytes(self.control)), []
        try:
            buffer.pull_uint_var()
            while not buffer.eof():
                kind, length = buffer.pull_uint_var(), buffer.pull_uint_var()
                payload = Buffer(data=buffer.pull_bytes(length))
                if kind == GOAWAY:
                    found.append(payload.pull_uint_var())
        except BufferReadError:
            pass  # The rest has not come yet.
        return found

    def send_goaway(self, stream_id):
        payload = Buffer(capacity=8)
        payload.push_uint_var(stream_id)
        self.raw(self.h3._local_control_stream_id, encode_frame(GOAWAY, payload.data))

    def raw(self, stream_id, data, end=False):
        self._quic.send_stream_data(stream_id, data, end)
        self.transmit()

    def headers(self, stream_id, headers, end=False):
        self.h3.send_headers(stream_id, [(as_bytes(n), as_bytes(v)) for n, v in headers], end)
        self.transmit()

    def data(self, stream_id, data, end=False):
        self.h3.send_data(stream_id, data, end)
        self.transmit()

    def datagram(self, stream_id, data):
        self.h3.send_datagram(stream_id, data)
        self.transmit()

    def reset(self, stream_id, code):
        self._quic.reset_stream(stream_id, code)
        self.transmit()

    def stop(self, stream_id, code):
        self._quic.stop_stream(stream_id, code)
        self.transmit()

    async def until(self, holds):
        """Waits until `holds()` or the connection is closed."""

        async def wait():
            while not holds() and self.closed_with is None:
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(wait(), LIMIT)


def as_text(data):
    return data.decode("latin-1")


def as_bytes(text):
    return text.encode("latin-1")


def say(**what):
    """One line of JSON for the Rust side."""
    print(json.dumps(what), flush=True)


def fail(error):
    say(failed=f"{type(error).__name__}: {error}")
    sys.exit(1)
