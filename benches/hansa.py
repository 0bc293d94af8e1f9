"""hansa as a peer of the bench: two whole members as shipped, on the bench's two namespaces.

Member `a` in hb-a, member `b` in hb-b: each a controller and one gateway, default configuration, access lines
and metrics on, joined by token, fed by a live controller with SERVICES exports. Only the gateways' CPU and
memory are charged to the path; the controllers' are reported apart. Called by bench.py; never by hand.
"""
import json, os, shutil, signal, subprocess as sp, time

NS = {"a": "hb-a", "b": "hb-b"}
LINK = {"a": "10.9.0.1", "b": "10.9.0.2"}
PORTS = {"http": 9000, "iperf": 9001, "echo": 9002}
TUNNEL = 7443


def binary():
    return os.environ.get("HANSA") or shutil.which("hansa") or os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.expanduser("~/.cache/hansa/target")), "release/hansa")


def manifest(name, port):
    meta = f"metadata: {{name: {name}, namespace: bench}}"
    return (f"apiVersion: v1\nkind: Service\n{meta}\nspec: {{ports: [{{name: tcp, port: {port}}}]}}\n---\n"
            f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, namespace: bench, labels: {{kubernetes.io/service-name: {name}}}}}\n"
            f"addressType: IPv4\nports: [{{name: tcp, port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n---\n"
            f"apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n{meta}\n")


class Hansa:
    """Both members. `gateways` are {"a": pid, "b": pid}; `vips` the addresses in hb-a by service."""

    def __init__(self, run, services=0, extra_tunnel=None):
        self.dir, self.procs, self.gateways, self.controllers, self.vips = os.path.join(run, "hansa"), {}, {}, {}, {}
        shutil.rmtree(self.dir, ignore_errors=True)
        self.extra = extra_tunnel or {}
        for who in NS: self.member(who, services)
        token = os.path.join(self.dir, "invite.token")
        self.cli("a", "peer", "invite", "--name", "b", "--out", token)
        self.cli("b", "peer", "join", token)
        self.await_vips()

    def path(self, who, *rest): return os.path.join(self.dir, who, *rest)

    def cli(self, who, *args):
        cmd = ["ip", "netns", "exec", NS[who], binary(), *args, "--socket", self.path(who, "controller", "controller.sock")]
        done = sp.run(cmd, stdout=sp.PIPE, stderr=sp.PIPE, text=True)
        if done.returncode: raise RuntimeError(f"{' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def spawn(self, who, kind, config):
        os.makedirs(self.path(who, kind), exist_ok=True)
        file = self.path(who, kind + ".json")  # JSON is YAML
        json.dump(config, open(file, "w"))
        out = open(self.path(who, kind + ".out"), "w")
        p = sp.Popen(["ip", "netns", "exec", NS[who], binary(), kind, "--config", file], stdin=sp.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        self.procs[f"{who} {kind}"] = p
        return p.pid

    def member(self, who, services):
        os.makedirs(self.path(who, "manifests"))
        if who == "b":
            text = [manifest(n, p) for n, p in PORTS.items()] + [manifest(f"idle-{i}", 80) for i in range(services)]
            open(self.path(who, "manifests", "bench.yaml"), "w").write("---\n".join(text))
        vip = {"a": "127.97.0.0/16", "b": "127.98.0.0/16"}[who]
        self.controllers[who] = self.spawn(who, "controller", {
            "cluster": who, "trustDomain": f"{who}.bench.hansa.dev", "locality": f"bench/{who}", "stateDir": self.path(who, "controller"),
            "source": {"folder": self.path(who, "manifests")}, "listen": ["127.0.0.1:15012"], "vip": {"prefixes": [vip]},
            "admin": {"listen": "127.0.0.1:15030"}, "health": {"listen": "127.0.0.1:15031"}, "log": {"file": self.path(who, "controller.jsonl")}})
        token = self.path(who, "gateway.token")
        self.until(lambda: self.cli(who, "enroll", "--role", "gateway", "--id", "gateway-1", "--out", token) is not None, "controller socket")
        self.gateways[who] = self.spawn(who, "gateway", {
            "id": "gateway-1", "cluster": who, "stateDir": self.path(who, "gateway"), "controller": ["127.0.0.1:15012"], "enrollToken": token,
            "locality": f"bench/{who}", "tunnel": {"listen": [f"{LINK[who]}:{TUNNEL}"], "advertise": [f"{LINK[who]}:{TUNNEL}"], **self.extra},
            "relay": {"listen": "127.0.0.1:15014"}, "admin": {"listen": "127.0.0.1:15020"}, "health": {"listen": "127.0.0.1:15021"},
            "log": {"file": self.path(who, "gateway.jsonl")}})
        self.until(lambda: json.loads(self.cli(who, "status", "-o", "json"))["gateways"][0]["connected"], f"gateway of {who}")

    def await_vips(self):
        def look():
            rows = {s["name"]: s for s in json.loads(self.cli("a", "services", "-o", "json"))}
            self.vips = {n: rows[f"bench/{n}"]["vips"][0] for n in PORTS}
            return bool(self.vips)
        self.until(look, "virtual addresses")

    def until(self, test, what, seconds=30):
        end, last = time.time() + seconds, None
        while time.time() < end:
            try:
                if test(): return
            except (RuntimeError, KeyError, IndexError, ValueError) as e: last = e
            time.sleep(0.1)
        raise RuntimeError(f"hansa: no {what} within {seconds} s: {last}")

    def stop(self):
        for p in self.procs.values():
            try: os.killpg(p.pid, signal.SIGKILL)
            except ProcessLookupError: pass
        for p in self.procs.values(): p.wait()
