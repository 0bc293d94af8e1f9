#!/usr/bin/env python3
"""The table of a run: every row with all peers, and at its end goal, seen and met. Called by suite.py.

  judge.py RECORDS.jsonl...      the table again, from records that were kept

Values are medians over repetitions; a ratio is the median of the ratios within one repetition. A load error in
any repetition voids a peer's value: nothing is judged by it, and a goal that needs it is not met.
"""
import json, statistics as st, sys

ROWS = {
    "bulk": "one way through both hops, 1 and 16 streams, up and down",
    "conn": "new connections/s, 32 at once, 32 bytes echoed on each",
    "keepalive": "requests on 128 kept connections (wrk)",
    "rate": "requests at a fixed 2,000/s, open loop",
    "udp": "datagrams/s echoed through a UDP virtual address",
    "mem": "RSS with 0, 1,000 and 5,000 idle connections",
    "control": "controller with 0, 200 and 1,000 services, idle",
    "ttfb": "first byte at 40 ms round trip",
    "loss": "40 ms, 1 % loss, 200 Mbit/s",
    "fair": "beside a cubic flow, 40 ms, 200 Mbit/s, 50 ms queue",
    "dns": "10,000 names under dnsperf, one core",
    "micro": "pick, merge, diff/apply, answer",
}
COLUMNS = {"hansa": ("hansa",), "quintun": ("quintun", "quintun-bbr", "quintun-lazy"), "envoy h2": ("envoy-hbone-h2",), "envoy h3": ("envoy-connect-h3",), "haproxy": ("haproxy-mtls",), "direct": ("direct",)}
RTT = 40.0


class Data:
    def __init__(s, files):
        s.by, s.void = {}, {}
        for f in files:
            for line in open(f):
                r = json.loads(line)
                why = wrong(r)
                if why:
                    for row in r["row"].split("/"): s.void[(row, r["test"], r["peer"])] = why
                s.by.setdefault((r["row"], r["test"], r["peer"]), {})[r["rep"]] = r

    def is_void(s, row, test, peer): return s.void.get((row, test, peer)) or s.void.get((row, "*", peer))

    def reps(s, row, test, peer, key):
        if s.is_void(row, test, peer): return {}
        get = key if callable(key) else lambda r: r.get(key)
        out = {rep: get(r) for rep, r in s.by.get((row, test, peer), {}).items()}
        return {rep: v for rep, v in out.items() if isinstance(v, (int, float))}

    def med(s, row, test, peer, key):
        v = s.reps(row, test, peer, key)
        return st.median(v.values()) if v else None

    def ratio(s, row, test, key, peer, mine="hansa"):
        a, b = s.reps(row, test, mine, key), s.reps(row, test, peer, key)
        v = [a[i] / b[i] for i in a if b.get(i)]
        return st.median(v) if v else None


def wrong(r):
    """What voids a record."""
    if "error" in r: return r["error"]
    if r.get("errs"): return f"{r['errs']} errors"
    if r.get("bad") or r.get("sockerr"): return f"bad answers {r.get('bad')} {r.get('sockerr')}"
    return None


# (row, test, label, value, digits)
def lines():
    for t, l in (("bulk1up", "1 up"), ("bulk1down", "1 down"), ("bulk16up", "16 up"), ("bulk16down", "16 down")):
        yield "bulk", t, f"{l}: Gbit/s", "gbit", 2
        yield "bulk", t, f"{l}: CPU-s/GiB", "cpu_gib", 2
    yield "conn", "conn32", "connections/s", "cps", 0
    yield "conn", "conn32", "CPU µs each", "cpu_us_conn", 0
    yield "keepalive", "wrk128", "requests/s", "rps", 0
    yield "keepalive", "wrk128", "CPU µs each", "cpu_us_req", 1
    yield "keepalive", "wrk128", "p50 ms", lambda r: r["p50_us"] / 1e3, 2
    yield "keepalive", "wrk128", "p99 ms", lambda r: r["p99_us"] / 1e3, 2
    yield "rate", "rate2000", "p50 ms", lambda r: r["p50_us"] / 1e3, 3
    yield "rate", "rate2000", "p99 ms", lambda r: r["p99_us"] / 1e3, 3
    yield "rate", "rate2000", "CPU µs each", "cpu_us_req", 1
    for n in (100, 1200):
        yield "udp", f"echo{n}", f"{n} bytes: datagrams/s", "dps", 0
        yield "udp", f"echo{n}", f"{n} bytes: CPU µs each", "cpu_us_dgram", 1
    for t, l in (("idle", "0"), ("conns1000", "1,000"), ("conns5000", "5,000")):
        yield "mem", t, f"{l} connections: RSS MiB, larger gateway", larger, 1
    yield "mem", "conns5000", "KiB per connection, larger gateway", "kib_conn", 1
    for n in (0, 200, 1000):
        yield "control", f"services{n}", f"{n:,} services: RSS MB", lambda r: r["rss"] * 1.048576, 1
        yield "control", f"services{n}", f"{n:,} services: % of a core", "core_pct", 2
    yield "ttfb", "warm", "warm, ms", lambda r: st.median(r["ms"]), 1
    yield "ttfb", "cold", "cold, ms", lambda r: r["ms"][0], 1
    yield "loss", "bulk1", "one stream, Mbit/s", "mbit", 0
    yield "loss", "bulk1", "one stream, CPU-s/GiB", "cpu_gib", 2
    yield "loss", "rr400", "400/s of 10 kB: p99 ms", lambda r: r["p99_us"] / 1e3, 1
    yield "fair", "beside", "one stream each at once, Mbit/s", "mbit", 0


def larger(r): return max(r["rss_a"], r["rss_b"])


def le(limit, seen, text, digits=3, unit=""): return text, seen, None if seen is None else seen <= limit, digits, unit
def ge(limit, seen, text, digits=3, unit=""): return text, seen, None if seen is None else seen >= limit, digits, unit


def goals(d):
    """By (row, test, label): (goal, seen, met, digits, unit)."""
    g = {}
    for t, l in (("bulk1up", "1 up"), ("bulk1down", "1 down"), ("bulk16up", "16 up"), ("bulk16down", "16 down")):
        g["bulk", t, f"{l}: CPU-s/GiB"] = [le(1.0, d.ratio("bulk", t, "cpu_gib", "quintun"), "≤ 1.0 × quintun", unit=" ×"), le(0.2, d.ratio("bulk", t, "cpu_gib", "envoy-connect-h3"), "≤ 0.2 × envoy h3", unit=" ×")]
    h2 = "envoy-hbone-h2"
    g["conn", "conn32", "connections/s"] = [ge(2, d.ratio("conn", "conn32", "cps", h2), "≥ 2 × envoy h2", unit=" ×")]
    g["conn", "conn32", "CPU µs each"] = [le(0.5, d.ratio("conn", "conn32", "cpu_us_conn", h2), "≤ 0.5 × envoy h2", unit=" ×")]
    g["keepalive", "wrk128", "CPU µs each"] = [le(1.1, d.ratio("keepalive", "wrk128", "cpu_us_req", h2), "≤ 1.1 × envoy h2", unit=" ×")]
    g["rate", "rate2000", "p50 ms"] = [le(1.15, d.ratio("rate", "rate2000", "p50_us", h2), "≤ 1.15 × envoy h2", unit=" ×")]
    g["mem", "idle", "0 connections: RSS MiB, larger gateway"] = [le(20, d.med("mem", "idle", "hansa", larger), "≤ 20 MiB", 1, " MiB")]
    g["mem", "conns5000", "KiB per connection, larger gateway"] = [le(10, d.med("mem", "conns5000", "hansa", "kib_conn"), "≤ 10 KiB", 1, " KiB")]
    for n, mb in ((0, 30), (200, 35), (1000, 60)):
        g["control", f"services{n}", f"{n:,} services: RSS MB"] = [le(mb, d.med("control", f"services{n}", "hansa", lambda r: r["rss"] * 1.048576), f"≤ {mb} MB", 1, " MB")]
        g["control", f"services{n}", f"{n:,} services: % of a core"] = [le(1, d.med("control", f"services{n}", "hansa", "core_pct"), "< 1 %", 2, " %")]
    g["ttfb", "warm", "warm, ms"] = [le(1.1, d.med("ttfb", "warm", "hansa", lambda r: st.median(r["ms"]) / RTT), "≤ 1.1 RTT", unit=" RTT")]
    g["ttfb", "cold", "cold, ms"] = [le(2.5, d.med("ttfb", "cold", "hansa", lambda r: r["ms"][0] / RTT), "≤ 2.5 RTT", unit=" RTT")]
    g["loss", "bulk1", "one stream, Mbit/s"] = [ge(75, d.med("loss", "bulk1", "hansa", lambda r: r["mbit"] / 2), "≥ 75 % of the link", 0, " %")]
    g["loss", "rr400", "400/s of 10 kB: p99 ms"] = [le(95, d.med("loss", "rr400", "hansa", lambda r: r["p99_us"] / 1e3), "≤ 95 ms", 1, " ms")]
    g["dns", "udp", "UDP: CPU-s per million"] = [le(1.5, d.ratio("dns", "udp", "cpu_s_per_M", "unbound"), "≤ 1.5 × unbound", unit=" ×")]
    g["micro", "pick", "100000"] = [le(1000, d.med("micro", "pick100000", "hansa", "ns"), "< 1 µs", 0, " ns")]
    return g


def show(value, digits): return "–" if value is None else f"{value:,.{digits}f}"


def verdicts(goal):
    """Goal, seen and met as three cells; several goals of one line are separated by semicolons."""
    if not goal: return ["", "", ""]
    met = {True: "yes", False: "NO", None: "not judged"}
    return ["; ".join(g[0] for g in goal), "; ".join(show(g[1], g[3]) + (g[4] if g[1] is not None else "") for g in goal), "; ".join(met[g[2]] for g in goal)]


def cell(d, row, test, value, digits, names):
    for name in names:
        if (row, test, name) in d.by or d.is_void(row, test, name):
            return "void" if d.is_void(row, test, name) else show(d.med(row, test, name, value), digits)
    return "–"


def per_connection(d):
    """KiB per idle connection, of the gateway that takes more."""
    for (row, test, peer), reps in d.by.items():
        base = d.by.get(("mem", "idle", peer), {})
        if row == "mem" and test == "conns5000":
            for rep, r in reps.items():
                if rep in base and "rss_a" in r and "rss_a" in base[rep]: r["kib_conn"] = max((r[k] - base[rep][k]) * 1024 / 5000 for k in ("rss_a", "rss_b"))


def grid(head, body):
    width = [max(len(r[i]) for r in [head] + body) for i in range(len(head))]
    line = lambda r: "| " + " | ".join(c.ljust(w) for c, w in zip(r, width)) + " |"
    return "\n".join([line(head), "|" + "|".join("-" * (w + 2) for w in width) + "|"] + [line(r) for r in body])


def table(files):
    d = Data(files); per_connection(d); g = goals(d)
    have = {row for row, _, _ in d.by} | {row for row, _, _ in d.void}
    body = []
    for row, test, label, value, digits in lines():
        if row in have: body.append([row, label] + [cell(d, row, test, value, digits, names) for names in COLUMNS.values()] + verdicts(g.get((row, test, label))))
    if "dns" in have:
        # other rivals than the paths have: they are named in the cell
        for mode, key, label, digits in (("udp", "qps", "UDP: queries/s", 0), ("udp", "cpu_s_per_M", "UDP: CPU-s per million", 2), ("tcp", "qps", "TCP: queries/s", 0), ("tcp", "cpu_s_per_M", "TCP: CPU-s per million", 2), ("udp", "rss", "RSS MiB", 0)):
            other = [f"{n} {cell(d, 'dns', mode, key, digits, (n,))}" for n in ("unbound", "knot")]
            body.append(["dns", label, cell(d, "dns", mode, key, digits, ("hansa",)), *other, "–", "–", "–"] + verdicts(g.get(("dns", mode, label))))
    if "micro" in have:
        for name in ("pick", "answer", "merge", "diff", "apply"):
            at = [d.med("micro", f"{name}{n}", "hansa", "ns") for n in (100, 10000, 100000)]
            cells = "; ".join("–" if v is None else f"{v:,.0f} ns" if v < 1e4 else f"{v / 1e6:,.2f} ms" for v in at)
            body.append(["micro", f"{name} at 100; 10k; 100k services", cells, "–", "–", "–", "–", "–"] + verdicts(g.get(("micro", name, "100000"))))
    text = grid(["row", "what", *COLUMNS, "goal", "seen", "met"], body) if body else "no records"
    void = "".join(f"void: {row} {test} {peer}: {why}\n" for (row, test, peer), why in sorted(d.void.items()))
    judged = [v[2] for r in g.values() for v in r]
    return f"{text}\n\n{void}{judged.count(True)} of {sum(j is not None for j in judged)} goals met\n"


if __name__ == "__main__": print(table(sys.argv[1:]))
