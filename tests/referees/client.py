"""aioquic as HTTP/3 client: client.py PORT ROOT.pem CASE [ARG...]

Plays one case of conversation against the server on 127.0.0.1:PORT and prints what it saw as one
line of JSON. Called by the ring `referees`.
"""

import argparse
import asyncio
import ssl

from aioquic.asyncio.client import connect
from aioquic.h3.connection import encode_frame
from aioquic.quic.configuration import QuicConfiguration

from peer import Peer, fail, say

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def tunnel(peer, authority, more=()):
    """Opens a CONNECT and gives its stream id."""
    stream_id = peer._quic.get_next_available_stream_id()
    peer.headers(stream_id, [(":method", "CONNECT"), (":authority", authority), *more])
    return stream_id


def udp(peer, target):
    """Opens a connect-udp flow; its target is in the path (RFC 9298)."""
    host, port = target.rsplit(":", 1)
    stream_id = peer._quic.get_next_available_stream_id()
    head = [
        (":method", "CONNECT"),
        (":protocol", "connect-udp"),
        (":scheme", "https"),
        (":authority", "gateway.example:15443"),
        (":path", f"/.well-known/masque/udp/{host}/{port}/"),
        ("capsule-protocol", "?1"),
    ]
    peer.headers(stream_id, head)
    return stream_id


def request(peer, method, authority, path, more=(), end=True):
    stream_id = peer._quic.get_next_available_stream_id()
    head = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
    peer.headers(stream_id, [*head, *more], end)
    return stream_id


async def over(peer, stream_id):
    """Waits for the end of what we receive on a stream."""
    stream = peer.stream(stream_id)
    await peer.until(lambda: stream.ended or stream.reset is not None)
    return stream.report()


async def answered(peer, stream_id):
    await peer.until(lambda: peer.stream(stream_id).headers or peer.stream(stream_id).reset is not None)


@case
async def first_bytes(peer, authority, text, size):
    """Content right behind the CONNECT, much more after the answer, then our end."""
    stream_id = tunnel(peer, authority)
    peer.data(stream_id, text.encode())
    await answered(peer, stream_id)
    peer.data(stream_id, bytes(int(size)), end=True)
    report = await over(peer, stream_id)
    report["length"] = len(report.pop("data"))
    return report


@case
async def talk(peer, authority, *texts):
    """Says `texts`, ends its side, listens to the end."""
    stream_id = tunnel(peer, authority)
    await answered(peer, stream_id)
    for text in texts:
        peer.data(stream_id, text.encode())
    peer.data(stream_id, b"", end=True)
    return await over(peer, stream_id)


@case
async def refused(peer, authority):
    """Asks for a tunnel that it will not get, or over a connection that does not last."""
    report = await over(peer, tunnel(peer, authority))
    return {**report, "closed": peer.closed_with}


@case
async def ask(peer, authority, text, *more):
    """Says `text` at once, behind the CONNECT, and listens to the end."""
    stream_id = tunnel(peer, authority, [pair.split("=", 1) for pair in more])
    peer.data(stream_id, text.encode().decode("unicode_escape").encode())
    return await over(peer, stream_id)


@case
async def last_words(peer, authority):
    """Holds a tunnel until the server sends GOAWAY, says so, and then ends it."""
    stream_id = tunnel(peer, authority)
    await answered(peer, stream_id)
    say(waiting=True)
    await peer.until(peer.goaways)
    late = await over(peer, tunnel(peer, authority))
    peer.data(stream_id, b"", end=True)
    return {"goaways": peer.goaways(), "late": late, "running": await over(peer, stream_id)}


@case
async def listen_then_talk(peer, authority, text):
    """Speaks only after the other side has ended."""
    stream_id = tunnel(peer, authority)
    report = await over(peer, stream_id)
    peer.data(stream_id, text.encode(), end=True)
    await peer.ping()
    return report


@case
async def be_reset(peer, authority):
    """Is reset by the server, both ways."""
    stream_id = tunnel(peer, authority)
    await answered(peer, stream_id)
    peer.data(stream_id, b"x")
    stream = peer.stream(stream_id)
    await peer.until(lambda: stream.reset is not None and stream.stopped is not None)
    return stream.report()


@case
async def reset(peer, authority, code):
    """Resets a tunnel in the middle, both ways."""
    stream_id = tunnel(peer, authority)
    await answered(peer, stream_id)
    peer.data(stream_id, b"before")
    await peer.until(lambda: peer.stream(stream_id).data == b"before")
    peer.reset(stream_id, int(code))
    peer.stop(stream_id, int(code))
    stream = peer.stream(stream_id)
    await peer.until(lambda: stream.reset is not None)
    return stream.report()


@case
async def datagrams(peer, target, *sizes):
    """Sends datagrams of these sizes, and waits for as many."""
    stream_id = udp(peer, target)
    await answered(peer, stream_id)
    stream = peer.stream(stream_id)
    for number, size in enumerate(map(int, sizes)):
        # Context id 0 (RFC 9298), then the payload. One by one: a datagram may be lost, a
        # sequence on an idle loopback is not.
        peer.datagram(stream_id, b"\0" + bytes([97 + number]) * size)
        await peer.until(lambda: len(stream.datagrams) > number or stream.ended)
    # An unknown capsule, then the end of the flow.
    peer.data(stream_id, encode_frame(0x29, b"unknown"), end=True)
    report = await over(peer, stream_id)
    report["settings"] = {str(k): v for k, v in peer.h3.received_settings.items()}
    return report


@case
async def goaway(peer, authority, path):
    """A tunnel goes on through the server's GOAWAY; a request after it does not."""
    running = tunnel(peer, authority)
    await answered(peer, running)
    trigger = request(peer, "GET", "control.example", path)
    await over(peer, trigger)
    await peer.until(peer.goaways)
    late = request(peer, "GET", "shop.example", "/late")
    rejected = await over(peer, late)
    peer.data(running, b"still here", end=True)
    return {
        "goaways": peer.goaways(),
        "late": late,
        "rejected": rejected,
        "running": await over(peer, running),
    }


@case
async def fields(peer, authority, path, count, length):
    """Sends `count` fields of `length` characters each, Huffman coded where shorter."""
    characters = "".join(chr(c) for c in range(0x21, 0x7F))
    value = (characters * (int(length) // len(characters) + 1))[: int(length)]
    more = [(f"x-field-{n}", value) for n in range(int(count))]
    return await over(peer, request(peer, "GET", authority, path, more))


@case
async def content(peer, authority, path, *texts):
    """A request with content and trailers."""
    stream_id = request(peer, "POST", authority, path, [("te", "trailers")], end=False)
    for text in texts:
        peer.data(stream_id, text.encode())
    peer.headers(stream_id, [("x-sum", str(len(texts)))], end=True)
    return await over(peer, stream_id)


@case
async def many(peer, authority, path, count):
    """The same request again and again, so that an encoder would fill its dynamic table."""
    token = [("authorization", "Bearer again-and-again"), ("x-caller", "spiffe://a/ns/b/sa/c")]
    ids = [request(peer, "GET", authority, path, token) for _ in range(int(count))]
    reports = [await over(peer, stream_id) for stream_id in ids]
    return {"reports": reports, "encoder": peer.h3._encoder_bytes_sent}


@case
async def head(peer, *pairs):
    """A request head made of these name=value pairs, right or wrong."""
    stream_id = peer._quic.get_next_available_stream_id()
    peer.headers(stream_id, [pair.split("=", 1) for pair in pairs], end=True)
    stream = peer.stream(stream_id)
    await peer.until(lambda: stream.ended or stream.reset is not None)
    return {**stream.report(), "closed": peer.closed_with}


@case
async def raw(peer, kind, hexed, end):
    """Bytes as they are on a stream of our own, or in a datagram; what the server does then."""
    await peer.until(lambda: peer.h3.received_settings is not None)
    data = bytes.fromhex(hexed)
    if kind == "datagram":
        peer._quic.send_datagram_frame(data)
        peer.transmit()
        await peer.until(lambda: False)
        return {"reset": None, "stopped": None, "closed": peer.closed_with}
    if kind == "control":
        stream_id = peer.h3._local_control_stream_id
    elif kind == "encoder":
        stream_id = peer.h3._local_encoder_stream_id
    else:
        stream_id = peer._quic.get_next_available_stream_id(is_unidirectional=kind == "uni")
    peer.raw(stream_id, data, end == "end")
    stream = peer.stream(stream_id)
    await peer.until(lambda: stream.ended or stream.reset is not None or stream.stopped is not None)
    return {"reset": stream.reset, "stopped": stream.stopped, "closed": peer.closed_with}


@case
async def resets_in_a_row(peer, authority, count):
    """Opens tunnels and resets each at once, many more than a connection allows at a time."""
    for number in range(int(count)):
        peer.reset(tunnel(peer, authority), 0x10C)
        if number % 50 == 49:
            # Lets acknowledgements and new stream limits in.
            await peer.ping()
        if peer.closed_with is not None:
            break
    return {"opened": number + 1, "closed": peer.closed_with}


@case
async def heads_without_end(peer, count):
    """Begins request heads and never ends them; waits until the first is given up."""
    first = peer._quic.get_next_available_stream_id()
    for number in range(int(count)):
        stream_id = peer._quic.get_next_available_stream_id()
        # HEADERS of 60,000 bytes, of which 1,000 come.
        peer.raw(stream_id, bytes.fromhex("018000ea60") + bytes(1000))
    stream = peer.stream(first)
    await peer.until(lambda: stream.reset is not None)
    return {**stream.report(), "closed": peer.closed_with}


@case
async def tunnels_that_say_nothing(peer, authority, count):
    """Opens tunnels and leaves them; how many were answered, and with what."""
    ids = [tunnel(peer, authority) for _ in range(int(count))]
    await peer.ping()
    await asyncio.sleep(2)
    statuses = {}
    for stream_id in ids:
        for name, value in (peer.stream(stream_id).headers or [[(b":status", b"none")]])[0]:
            if name == b":status":
                statuses[value.decode()] = statuses.get(value.decode(), 0) + 1
    return {"statuses": statuses, "closed": peer.closed_with}


@case
async def datagrams_for_nobody(peer, count):
    """Sends datagrams for flows that do not exist."""
    for number in range(int(count)):
        peer.datagram(4 * (number % 1000), bytes(1000))
        if number % 100 == 99:
            await peer.ping()
    return {"closed": peer.closed_with}


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("root", help="PEM file with the certificate to trust; - trusts any")
    parser.add_argument("--identity", nargs=2, metavar=("CHAIN", "KEY"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("args", nargs="*")
    asked = parser.parse_args()
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["h3"],
        server_name="localhost",
        max_datagram_frame_size=65535,
    )
    if asked.root == "-":
        configuration.verify_mode = ssl.CERT_NONE
    else:
        configuration.load_verify_locations(cafile=asked.root)
    if asked.identity:
        configuration.load_cert_chain(*asked.identity)
    async with connect(
        asked.host, asked.port, configuration=configuration, create_protocol=Peer
    ) as peer:
        say(**await CASES[asked.case](peer, *asked.args))


try:
    asyncio.run(main())
except Exception as error:  # The Rust side shows it.
    fail(error)
