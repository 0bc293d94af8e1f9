"""aioquic as HTTP/3 server: server.py CERT.pem KEY.pem

Prints {"port": N}, then one line of JSON for each thing it saw, and ends when its input does.
What it does with a request is in the request: the authority of a CONNECT, the path of others.
Called by the ring `referees`.
"""

import asyncio
import sys

from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from peer import Peer, fail, say


class Server(Peer):
    """Answers request streams, each in a task of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = set()
        self.tasks = set()

    def quic_event_received(self, event):
        super().quic_event_received(event)
        if self.closed_with is not None and not self.seen & {"closed"}:
            self.seen.add("closed")
            say(closed=self.closed_with)
        for stream_id, stream in list(self.streams.items()):
            if stream.headers and stream_id not in self.seen:
                self.seen.add(stream_id)
                task = asyncio.ensure_future(self.answer(stream_id, stream))
                self.tasks.add(task)
                task.add_done_callback(self.done)

    def done(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and task.exception():
            say(failed=repr(task.exception()))

    async def answer(self, stream_id, stream):
        head = {name.decode(): value.decode() for name, value in stream.headers[0]}
        if head[":method"] == "CONNECT":
            act = head[":authority"].split(":")[0].split(".")[0].replace("-", "_")
        else:
            act = head[":path"].split("?")[0].strip("/").replace("-", "_")
        await getattr(self, "act_" + act)(stream_id, stream, head)

    async def act_echo(self, stream_id, stream, _head):
        """Echoes as it comes, and ends when the other side has ended."""
        self.headers(stream_id, [(":status", "200")])
        sent = 0
        while True:
            await self.until(lambda: len(stream.data) > sent or stream.ended)
            if self.closed_with is not None:
                return
            piece = bytes(stream.data[sent:])
            sent += len(piece)
            if stream.ended and sent == len(stream.data):
                self.data(stream_id, piece + b" and over", end=True)
                return
            self.data(stream_id, piece)

    async def act_first_to_end(self, stream_id, stream, _head):
        """Ends its side at once, goes on listening."""
        self.headers(stream_id, [(":status", "200")])
        self.data(stream_id, b"mine", end=True)
        await self.until(lambda: stream.ended)
        say(stream=stream_id, **stream.report())

    async def act_reset(self, stream_id, stream, head):
        """Resets both ways after the first content, with the code in the port."""
        code = int(head[":authority"].split(":")[1])
        self.headers(stream_id, [(":status", "200")])
        await self.until(lambda: stream.data)
        self.reset(stream_id, code)
        self.stop(stream_id, code)

    async def act_reject(self, stream_id, _stream, _head):
        """Resets with H3_REQUEST_REJECTED instead of an answer."""
        self.reset(stream_id, 0x10B)
        self.stop(stream_id, 0x10B)

    async def act_be_reset(self, stream_id, stream, _head):
        """Says how it was reset."""
        self.headers(stream_id, [(":status", "200")])
        self.data(stream_id, b"ready")
        await self.until(lambda: stream.reset is not None and stream.stopped is not None)
        say(stream=stream_id, **stream.report())

    async def act_udp(self, stream_id, stream, head):
        """Echoes datagrams in upper case until the flow ends; says what the head was."""
        self.headers(stream_id, [(":status", "200"), ("capsule-protocol", "?1")])
        sent = 0
        while not stream.ended and self.closed_with is None:
            await self.until(lambda: len(stream.datagrams) > sent or stream.ended)
            for datagram in stream.datagrams[sent:]:
                self.datagram(stream_id, datagram.upper())
            sent = len(stream.datagrams)
        say(stream=stream_id, head=head, **stream.report())
        self.data(stream_id, b"", end=True)

    async def act_deny(self, stream_id, _stream, _head):
        self.headers(stream_id, [(":status", "403"), ("proxy-status", "gw; error=x")], end=True)

    async def act_goaway(self, stream_id, _stream, head):
        """Sends GOAWAY with the id in the query, then the answer."""
        self.send_goaway(int(head[":path"].split("?")[1]))
        self.headers(stream_id, [(":status", "204")], end=True)

    async def act_never(self, _stream_id, _stream, _head):
        """Does not answer."""

    async def act_fields(self, stream_id, stream, head):
        """Early hints, all fields back, content, trailers."""
        self.headers(stream_id, [(":status", "103"), ("link", "</style.css>; rel=preload")])
        back = [(name, value) for name, value in head.items() if name.startswith("x-")]
        self.headers(stream_id, [(":status", "200"), *back])
        await self.until(lambda: stream.ended)
        self.data(stream_id, bytes(stream.data))
        trailers = [(n.decode(), v.decode()) for section in stream.headers[1:] for n, v in section]
        self.headers(stream_id, [("x-end", "yes"), *trailers], end=True)

    async def act_raw(self, stream_id, _stream, head):
        """Bytes as they are, on the stream the query names: answer, control, uni or datagram."""
        kind, hexed, end = head[":path"].split("?")[1].split(",")
        data = bytes.fromhex(hexed)
        if kind == "datagram":
            self._quic.send_datagram_frame(data)
            self.transmit()
            return
        if kind == "control":
            stream_id = self.h3._local_control_stream_id
        elif kind == "uni":
            stream_id = self._quic.get_next_available_stream_id(is_unidirectional=True)
        elif kind == "bidi":
            stream_id = self._quic.get_next_available_stream_id()
        self.raw(stream_id, data, end == "end")


async def main():
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=["h3"], max_datagram_frame_size=65535
    )
    configuration.load_cert_chain(sys.argv[1], sys.argv[2])
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Server)
    say(port=server._transport.get_extra_info("sockname")[1])
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


try:
    asyncio.run(main())
except Exception as error:  # The Rust side shows it.
    fail(error)
