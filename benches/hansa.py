"""hansa as a peer of the bench: whole members as shipped, in the bench's namespaces.

Member `a` in the clients' namespace, member `b` in the services': each a controller and one gateway, default
configuration, access lines and metrics on, joined by token, fed by a live controller with SERVICES exports. Only
the gateways' CPU and memory are charged to a path; the controllers' are a row of their own. Called by bench.py,
suite.py and dns_bench.py; never by hand.
"""
import json, os, shutil, signal, subprocess as sp, time

BASE = os.environ.get("BENCH_NS", "hb")
NS = {"a": BASE + "-a", "b": BASE + "-b"}
LINK = {"a": "10.9.0.1", "b": "10.9.0.2"}
VIPS = {"a": "127.96.0.0/12", "b": "127.112.0.0/12"}
PORTS = {"http": ("TCP", 9000), "echo": ("TCP", 9001), "echo-udp": ("UDP", 9001)}
TUNNEL = 7443
WORKERS = os.environ.get("WORKERS", "2")


def binary(): return os.environ.get("HANSA") or shutil.which("hansa") or "hansa"


def manifest(name, port, protocol="TCP", namespace="bench", address="127.0.0.1"):
    meta = f"metadata: {{name: {name}, namespace: {namespace}}}"
    ports = f"ports: [{{name: main, protocol: {protocol}, port: {port}}}]"
    return (f"apiVersion: v1\nkind: Service\n{meta}\nspec: {{{ports}}}\n---\n"
            f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n"
            f"addressType: IPv4\n{ports}\nendpoints: [{{addresses: [{address}]}}]\n---\n"
            f"apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n{meta}\n")


def until(test, what, seconds=30):
    end, last = time.time() + seconds, None
    while time.time() < end:
        try:
            if test(): return
        except (RuntimeError, KeyError, IndexError, ValueError) as e: last = e
        time.sleep(0.1)
    raise RuntimeError(f"hansa: no {what} within {seconds} s: {last}")


class Member:
    """One member with its controller and its gateway running and connected."""

    def __init__(self, run, who, manifests):
        self.dir, self.who, self.procs = os.path.join(run, "hansa", who), who, {}
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.path("manifests"))
        for i in range(0, len(manifests), 1000):
            open(self.path("manifests", f"{i}.yaml"), "w").write("---\n".join(manifests[i:i + 1000]))
        try: self.start()
        except RuntimeError: self.stop(); raise

    @staticmethod
    def names(run, n):
        """Member `a` alone with n exports, for its DNS server."""
        return Member(run, "a", [manifest(f"svc-{i}", 80, namespace=f"ns-{i % 100}") for i in range(n)])

    def path(self, *rest): return os.path.join(self.dir, *rest)

    def cli(self, *args):
        cmd = ["ip", "netns", "exec", NS[self.who], binary(), *args, "--socket", self.path("controller", "controller.sock")]
        done = sp.run(cmd, stdout=sp.PIPE, stderr=sp.PIPE, text=True, env=self.env())
        if done.returncode: raise RuntimeError(f"{' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def env(self):
        """Nothing of the bench's own; as many workers as every other peer."""
        return {**{k: v for k, v in os.environ.items() if not k.startswith("HANSA")}, "TOKIO_WORKER_THREADS": WORKERS}

    def spawn(self, kind, config, before=()):
        os.makedirs(self.path(kind), exist_ok=True)
        file = self.path(kind + ".json")  # JSON is YAML
        json.dump(config, open(file, "w"))
        out = open(self.path(kind + ".out"), "a")
        cmd = ["ip", "netns", "exec", NS[self.who], *before, binary(), kind, "--config", file]
        self.procs[kind] = sp.Popen(cmd, stdin=sp.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=self.env())
        return self.procs[kind]

    def token(self, role, name):
        file = self.path(name + ".token")
        until(lambda: self.cli("enroll", "--role", role, "--id", name, "--out", file) is not None, "controller")
        return file

    def start(self):
        who = self.who
        self.spawn("controller", {
            "cluster": who, "trustDomain": f"{who}.bench.hansa.dev", "locality": f"bench/{who}", "stateDir": self.path("controller"),
            "source": {"folder": self.path("manifests")}, "listen": ["127.0.0.1:15012"], "vip": {"prefixes": [VIPS[who]]},
            "admin": {"listen": "127.0.0.1:15030"}, "health": {"listen": "127.0.0.1:15031"}, "log": {"file": self.path("controller.jsonl")}})
        link = f"{LINK[who]}:{TUNNEL}"
        self.spawn("gateway", {
            "id": "gateway-1", "cluster": who, "stateDir": self.path("gateway"), "controller": ["127.0.0.1:15012"], "enrollToken": self.token("gateway", "gateway-1"),
            "locality": f"bench/{who}", "tunnel": {"listen": [link], "advertise": [link]}, "relay": {"listen": "127.0.0.1:15014"},
            "admin": {"listen": "127.0.0.1:15020"}, "health": {"listen": "127.0.0.1:15021"}, "log": {"file": self.path("gateway.jsonl")}})
        until(lambda: json.loads(self.cli("status", "-o", "json"))["gateways"][0]["connected"], f"gateway of {who}")

    def dns(self, port, before):
        """A DNS server of this member; its process."""
        token = self.token("dns", f"dns-{len(self.procs)}-{time.monotonic_ns()}")
        shutil.rmtree(self.path("dns"), ignore_errors=True)
        return self.spawn("dns", {
            "id": os.path.basename(token)[:-6], "cluster": self.who, "stateDir": self.path("dns"), "controller": ["127.0.0.1:15012"], "enrollToken": token,
            "listen": [f"127.0.0.1:{port}"], "admin": {"listen": "127.0.0.1:15022"}, "log": {"file": self.path("dns.jsonl")}}, before)

    def kill_gateway(self):
        old = self.procs["gateway"]
        old.kill(); old.wait()

    def start_gateway(self):
        """Starts it anew from what it kept. Returns at once."""
        return self.spawn("gateway", json.load(open(self.path("gateway.json"))))

    def stop(self):
        for p in self.procs.values():
            try: os.killpg(p.pid, signal.SIGKILL)
            except ProcessLookupError: pass
        for p in self.procs.values(): p.wait()


class Hansa:
    """Two joined members. `vips` are the addresses of the services in a, by name."""

    def __init__(self, run, services=0):
        shutil.rmtree(os.path.join(run, "hansa"), ignore_errors=True)
        self.members, self.vips = {}, {}
        exports = [manifest(n, port, protocol) for n, (protocol, port) in PORTS.items()] + [manifest(f"idle-{i}", 80) for i in range(services)]
        try:
            self.members["a"] = Member(run, "a", [])
            self.members["b"] = Member(run, "b", exports[:services])
            token = os.path.join(run, "hansa", "invite.token")
            self.members["a"].cli("peer", "invite", "--name", "b", "--out", token)
            self.members["b"].cli("peer", "join", token)
            if services: until(lambda: self.look(services), "virtual addresses")
        except RuntimeError: self.stop(); raise

    def look(self, services):
        rows = {s["name"]: s for s in json.loads(self.members["a"].cli("services", "-o", "json"))}
        self.vips = {n: rows[f"bench/{n}"]["vips"][0] for n in PORTS}
        return len(rows) >= services

    def pids(self, kind): return {w: m.procs[kind].pid for w, m in self.members.items()}
    def procs(self, kind): return [self.members[w].procs[kind] for w in ("b", "a")]

    def stop(self):
        for m in self.members.values(): m.stop()
