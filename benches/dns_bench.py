"""The DNS row: knot, unbound and hansa's DNS server answer A for one zone of 10,000 names under dnsperf.

Called by suite.py. Everything runs in one namespace; the server is pinned to CPU 0 and has one worker where
that can be set, dnsperf is pinned to CPU 1, so qps is per core and CPU-seconds per million answers compare.
hansa's is fed by a live controller with 10,000 exports; neither it nor its gateway is charged.
"""
import os, random, re, subprocess as sp, time

N, Z, PORT = 10000, "clusterset.local", 5354
SERVERS = ("knot", "unbound", "hansa")


def name(i): return f"svc-{i}.ns-{i % 100}.svc.{Z}."


def files(run):
    put = lambda n, t: open(os.path.join(run, n), "w").write(t) and os.path.join(run, n)
    os.makedirs(f"{run}/knot/db", exist_ok=True)
    put("zone", f"$ORIGIN {Z}.\n$TTL 30\n@ SOA ns.{Z}. root.{Z}. 1 3600 600 86400 30\n@ NS ns\nns A 127.0.0.1\n" + "".join(f"{name(i)} A 10.0.{(i >> 8) & 255}.{i & 255}\n" for i in range(N)))
    random.seed(1)
    put("queries", "".join(f"{name(random.randrange(N))[:-1]} A\n" for _ in range(100000)))
    knot = put("knot.conf", f"server:\n  rundir: {run}/knot\n  listen: 127.0.0.1@{PORT}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\ndatabase:\n  storage: {run}/knot/db\nzone:\n  - domain: {Z}\n    file: {run}/zone\n    zonefile-load: whole\n")
    unb = put("unbound.conf", f"server:\n  num-threads: 1\n  interface: 127.0.0.1@{PORT}\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  directory: \"{run}\"\n  pidfile: \"{run}/unbound.pid\"\n  use-syslog: no\n  so-rcvbuf: 4m\n  minimal-responses: yes\n  access-control: 127.0.0.0/8 allow\n  module-config: \"iterator\"\nremote-control:\n  control-enable: no\nauth-zone:\n  name: \"{Z}\"\n  zonefile: \"{run}/zone\"\n  for-downstream: yes\n  for-upstream: no\n")
    return {"knot": ["knotd", "-c", knot], "unbound": ["unbound", "-d", "-c", unb]}


def ask(B, secs, mode, run):
    cmd = ["ip", "netns", "exec", B.NSA, "taskset", "-c", "1", "dnsperf", "-m", mode, "-s", "127.0.0.1", "-p", str(PORT), "-d", f"{run}/queries", "-l", str(secs), "-c", "8", "-T", "1", "-q", "200"]
    return sp.run(cmd, stdout=sp.PIPE, stderr=sp.STDOUT, text=True).stdout


def measure(B, pid, secs, mode, run):
    c0 = B.cpu(pid); o = ask(B, secs, mode, run); c1 = B.cpu(pid)
    g = lambda r: float(m[1]) if (m := re.search(r, o)) else 0.0
    done, lost = g(r"Queries completed:\s+(\d+)"), g(r"Queries lost:\s+(\d+)")
    good = re.search(r"Response codes:\s+NOERROR \d+ \(100.00%\)\s*$", o, re.M)
    if not done or not good or lost > done / 1000: return {"error": o[-300:]}
    return {"qps": g(r"Queries per second:\s+([\d.]+)"), "lost": lost, "avg_ms": g(r"Average Latency \(s\):\s+([\d.]+)") * 1e3, "cpu_s_per_M": (c1 - c0) / done * 1e6, "rss": B.rss(pid), "core_busy": (c1 - c0) / secs}


def answers(B, n):
    o = sp.run(["ip", "netns", "exec", B.NSA, "dnsperf", "-s", "127.0.0.1", "-p", str(PORT), "-n", "1", "-d", "/dev/stdin", "-l", "1", "-t", "1"], input=f"{name(n)[:-1]} A\n", stdout=sp.PIPE, stderr=sp.STDOUT, text=True).stdout
    return "NOERROR 1 (" in o


def until_up(B):
    end = time.time() + 90
    while time.time() < end:
        if answers(B, 5) and answers(B, N - 1): return True
        time.sleep(0.3)
    return False


def one(rec, B, server, cmd, rep, secs, run):
    log = open(f"{run}/{server}.log", "w")
    p = cmd(log)
    try:
        if not until_up(B): rec.put("dns", "*", server, rep, {"error": "does not answer"}); return
        time.sleep(1)
        for mode in ("udp", "tcp"): rec.put("dns", mode, server, rep, measure(B, p.pid, secs, mode, run))
    finally:
        B.kill([p.pid]); p.wait()


def run(rec, B, H, reps, secs):
    cmds = {n: (lambda log, c=c: B.ns(B.NSA, ["taskset", "-c", "0"] + c, stdout=log, stderr=log)) for n, c in files(B.RUN).items()}
    member = H.Member.names(B.RUN, N)
    try:
        cmds["hansa"] = lambda _: member.dns(PORT, ["taskset", "-c", "0"])
        for rep in range(reps):
            for server in SERVERS: one(rec, B, server, cmds[server], rep, secs, B.RUN)
    finally: member.stop()
