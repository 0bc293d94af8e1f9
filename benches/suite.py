#!/usr/bin/env python3
"""All rows of the bench in one run: `benches/run [ROW...]` builds everything and calls this, as root.

Each repetition runs every peer in turn, so that what else the machine does hits all alike. Records go to
RESULTS as JSON lines; judge.py makes the table of them. Nothing here knows a goal.
"""
import json, os, random, re, shutil, signal, subprocess as sp, sys, tempfile, time

TMP = tempfile.mkdtemp(prefix="hansa-bench-")
os.environ.update(HANSA_BENCH=TMP, RUN=TMP + "/run", CERTS=TMP + "/certs", BENCH_NS=f"hb{os.getpid()}")
import bench as B, dns_bench, hansa as H, judge, peers as P, wan_bench as W  # they read the environment above

PEERS = ["direct", "haproxy-mtls", "envoy-hbone-h2", "envoy-connect-h3", "quintun", "hansa"]
REPS, SECS = int(os.environ.get("REPS", "3")), int(os.environ.get("SECS", "3"))
RTT, LOSS, RATE, QUEUE = 40, 0.01, 200, 50
HERE = os.path.dirname(os.path.abspath(__file__))


class Records:
    def __init__(s, path): s.out, s.path, s.start = open(path, "a"), path, time.time()

    def put(s, row, test, peer, rep, data):
        data = {k: (round(v, 4) if isinstance(v, float) else v) for k, v in data.items()}
        s.out.write(json.dumps({"row": row, "test": test, "peer": peer, "rep": rep, "load": round(os.getloadavg()[0], 2), **data}) + "\n")
        s.out.flush()
        t = int(time.time() - s.start)
        print(f"[{t // 60:2d}:{t % 60:02d}] {row:9s} {test:14s} {peer:17s} {rep}  " + " ".join(f"{k}={v}" for k, v in data.items() if not k.startswith("anon"))[:110], flush=True)


def with_peer(rec, row, name, rep, body):
    """Brings a peer up, runs body(peer), takes it down. What goes wrong voids the row for this peer."""
    p = None
    try:
        p = B.Peer(name)
        if not p.up: raise RuntimeError("did not come up")
        body(p)
    except (RuntimeError, sp.TimeoutExpired, OSError, KeyError, ZeroDivisionError) as e:
        rec.put(row, "*", name, rep, {"error": f"{name}: {e}"[:300]})
        if p is None: B.clear()
    finally:
        if p: p.stop()


# ------------------------------------------------------------ rows over the veth pair
def bulk(p): yield from B.suite_bulk(p, SECS)


def conn(p):
    for test, d in B.suite_cps(p, SECS):
        if test == "conn32": yield test, d


def keepalive(p): yield "wrk128", B.wrk(p, 128, SECS)


def rate(p): yield from B.suite_rate(p, SECS)


def udp(p):
    if p.name not in ("direct", "hansa"): return
    ip, port = ("10.9.0.2", 9001) if p.direct else (p.hansa.vips["echo-udp"], 9001)
    for size in (100, 1200):
        c0 = p.cpu(); d = B.load(["flood", f"{ip}:{port}", "--size", str(size), "--secs", str(SECS)])
        d["cpu_us_dgram"] = (p.cpu() - c0) / max(1, d.get("dps", 0) * (SECS + .3)) * 1e6
        yield f"echo{size}", d


def mem(p): yield from B.suite_mem(p, SECS)


VETH = {"bulk": bulk, "conn": conn, "keepalive": keepalive, "rate": rate, "udp": udp}


def veth_rows(rec, rows):
    for rep in range(REPS):
        # another order each time: nobody always follows the heaviest
        for name in PEERS[rep % len(PEERS):] + PEERS[:rep % len(PEERS)]:
            def body(p):
                for row in rows:
                    for test, d in VETH[row](p): rec.put(row, test, name, rep, d)
            if rows != ["udp"] or name in ("direct", "hansa"): with_peer(rec, "/".join(rows), name, rep, body)


def mem_row(rec):
    for name in PEERS[1:]:
        with_peer(rec, "mem", name, 0, lambda p: [rec.put("mem", t, name, 0, d) for t, d in mem(p)])


def control_row(rec):
    """Both members up and joined, nothing to do: RSS and CPU of the controller that takes more (a imports, b exports)."""
    for n in (0, 200, 1000):
        h = None
        try:
            h = H.Hansa(B.RUN, services=n)
            time.sleep(6)
            c0 = {w: B.cpu(p) for w, p in h.pids("controller").items()}
            time.sleep(15)
            d = {f"{k}_{w}": v for w, p in h.pids("controller").items() for k, v in (("rss", B.rss(p)), ("anon", B.rss(p, "Pss_Anon:")), ("core_pct", (B.cpu(p) - c0[w]) / 15 * 100))}
            rec.put("control", f"services{n}", "hansa", 0, {"rss": max(d["rss_a"], d["rss_b"]), "core_pct": max(d["core_pct_a"], d["core_pct_b"]), **d})
        except RuntimeError as e: rec.put("control", f"services{n}", "hansa", 0, {"error": str(e)})
        finally:
            if h: h.stop()
            else: B.clear()


# ------------------------------------------------------------ rows over the WAN
def over_wan(rec, row, name, rep, loss, body):
    w = W.Wan(loss, RTT, 0 if row == "ttfb" else RATE, QUEUE, rep * 7 + 1)
    try: with_peer(rec, row, name, rep, body)
    finally: w.stop()


def first_bytes(at, n, *more):
    d = B.load(["ttfb", "%s:%d" % at, "--n", str(n), "--gap", "50", *more])
    return d if "error" in d else {"ms": d["ttfb_ms"], **({"error": "no answer"} if None in d["ttfb_ms"] else {})}


def ttfb_row(rec):
    for rep in range(REPS):
        for name in [n if n != "quintun" else "quintun-lazy" for n in PEERS]:
            def body(p):
                first_bytes(p.at("echo"), 1)
                rec.put("ttfb", "warm", name, rep, first_bytes(p.at("echo"), 5))
                if p.direct: return
                if p.hansa:
                    # Both gateways run, A only just: it accepts and has no tunnel yet. The client is there first.
                    p.hansa.members["a"].kill_gateway()
                    q = sp.Popen(["ip", "netns", "exec", B.NSA, B.LOAD, "ttfb", "%s:%d" % p.at("echo"), "--await", "20"], stdout=sp.PIPE, text=True)
                    time.sleep(0.5)
                    p.hansa.members["a"].start_gateway(); out = q.communicate()[0]
                    try: rec.put("ttfb", "cold", name, rep, {"ms": json.loads(out.splitlines()[-1])["ttfb_ms"]})
                    except (KeyError, IndexError, ValueError): rec.put("ttfb", "cold", name, rep, {"error": out[-200:]})
                    p.gateways()
            over_wan(rec, "ttfb", name, rep, 0, body)
            if name in ("direct", "hansa"): continue
            # For the others the first request after a fresh start of both opens the tunnel.
            seen, ok = [], B.Peer.ok
            def timed(self, _):
                d = first_bytes(self.at("echo"), 1)
                if "error" not in d: seen.append(d["ms"])
                return "error" not in d
            B.Peer.ok = timed
            try: over_wan(rec, "ttfb", name, rep, 0, lambda p: rec.put("ttfb", "cold", name, rep, {"ms": seen[0]}))
            finally: B.Peer.ok = ok


def loss_row(rec):
    for rep in range(REPS):
        for name in [n if n != "quintun" else "quintun-bbr" for n in PEERS]:
            def body(p):
                at = "%s:%d" % p.at("echo")
                c0 = p.cpu(); d = B.load(["bulk", at, "--conns", "1", "--secs", "6", "--warm", "2", "--dir", "down"])
                rec.put("loss", "bulk1", name, rep, {**d, "mbit": d.get("gbit", 0) * 1000, "cpu_gib": (p.cpu() - c0) / max(1e-3, d.get("bytes", 0) * 8 / 6 / 2**30)})
            over_wan(rec, "loss", name, rep, LOSS, body)
            def small(p):
                at = "%s:%d" % p.at("echo")
                rec.put("loss", "rr400", name, rep, B.load(["rr", at, "--conns", "64", "--rate", "400", "--size", "10000", "--secs", "6", "--warm", "2"]))
            over_wan(rec, "loss", name, rep, LOSS, small)


def fair_row(rec):
    """One stream through hansa beside one of a cubic flow (quintun's) on one link that only its queue makes lossy."""
    for rep in range(REPS):
        w, p, extra = W.Wan(0, RTT, RATE, QUEUE, rep * 7 + 1), None, []
        try:
            p = B.Peer("hansa")
            a, b = [[x.replace(":7443", ":7444") for x in c] for c in P.quintun(B.RUN)]
            for n, c in ((B.NSB, b), (B.NSA, a)):
                extra.append(B.ns(n, c, stdout=sp.DEVNULL, stderr=sp.DEVNULL)); time.sleep(0.4)
            if not p.up: raise RuntimeError("hansa did not come up")
            H.until(lambda: "error" not in first_bytes(("127.0.0.1", P.LIS["echo"]), 1), "cubic flow", 15)
            at = {"hansa": p.at("echo"), "quintun": ("127.0.0.1", P.LIS["echo"])}
            runs = {n: sp.Popen(["ip", "netns", "exec", B.NSA, B.LOAD, "bulk", "%s:%d" % to, "--conns", "1", "--secs", "15", "--warm", "5", "--dir", "down"], stdout=sp.PIPE, text=True) for n, to in at.items()}
            for n, q in runs.items():
                d = json.loads(q.communicate()[0].splitlines()[-1]); rec.put("fair", "beside", n, rep, {**d, "mbit": d["gbit"] * 1000})
        except (RuntimeError, OSError, KeyError, IndexError, ValueError) as e: rec.put("fair", "beside", "hansa", rep, {"error": str(e)[:300]})
        finally:
            B.kill([q.pid for q in extra])
            for q in extra: q.wait()
            if p: p.stop()
            w.stop()


# ------------------------------------------------------------ rows without a path
def dns_row(rec):
    dns_bench.run(rec, B, H, REPS, SECS)


def micro_row(rec):
    out = sp.run([os.environ["MICRO"]], stdout=sp.PIPE, text=True, check=True).stdout
    for line in out.splitlines():
        d = json.loads(line); rec.put("micro", d.pop("test"), "hansa", 0, d)


def main():
    rows = sys.argv[1:] or list(judge.ROWS)
    unknown = [r for r in rows if r not in judge.ROWS]
    if unknown: sys.exit(f"no row {', '.join(unknown)}; there are: {' '.join(judge.ROWS)}")
    results = os.environ["RESULTS"]; os.makedirs(results, exist_ok=True)
    rec = Records(os.path.join(results, time.strftime("%Y%m%d-%H%M%S") + ".jsonl"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    print(f"rows: {' '.join(rows)}; records: {rec.path}", flush=True)
    try:
        os.makedirs(B.RUN, exist_ok=True)
        sp.run(["sh", HERE + "/mkcerts.sh", TMP + "/certs"], check=True, stderr=sp.DEVNULL)
        B.sweep()
        plain = [r for r in rows if r in VETH]
        if plain or "mem" in rows or "control" in rows:
            B.up()
            if plain: veth_rows(rec, plain)
            if "mem" in rows: mem_row(rec)
            if "control" in rows: control_row(rec)
            B.down()
        if "ttfb" in rows or "loss" in rows or "fair" in rows:
            B.up(veth=False)
            if "ttfb" in rows: ttfb_row(rec)
            if "loss" in rows: loss_row(rec)
            if "fair" in rows: fair_row(rec)
            B.down()
        if "dns" in rows: B.up(); dns_row(rec); B.down()
        if "micro" in rows: micro_row(rec)
    except KeyboardInterrupt:
        print("interrupted; the table has what was measured", flush=True)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        B.down()
        shutil.rmtree(TMP, ignore_errors=True)
        rec.out.close()
        text = judge.table([rec.path])
        open(rec.path.replace(".jsonl", ".txt"), "w").write(text)
        print("\n" + text + f"\nrecords: {rec.path}", flush=True)


if __name__ == "__main__":
    main()
