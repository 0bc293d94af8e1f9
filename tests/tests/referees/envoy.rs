//! Envoy as HTTP/2 and HTTP/3 CONNECT client: over HTTP/2 against a real gateway's inbound with
//! gateway certificates, over HTTP/3 against our codec. Its QUIC client takes a server only by a DNS
//! name in the certificate, which a SPIFFE identity does not have, so it cannot meet a gateway there.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};

use crate::aioquic;
use crate::fabric::{Fabric, text, tool};
use crate::ours::*;

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

/// A running Envoy; ends when dropped.
struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn envoy() -> PathBuf {
    let path = aioquic::python().with_file_name("envoy");
    assert!(path.exists(), "no Envoy at {}: run `scripts/deps.sh test`", path.display());
    path
}

/// How to trust the server, and who to be.
struct Trust<'a> {
    sni: &'a str,
    roots: &'a Path,
    san: Value,
    identity: Option<(PathBuf, PathBuf)>,
}

impl Trust<'_> {
    fn context(&self, alpn: &str) -> Value {
        let file = |path: &Path| json!({ "filename": path });
        let own = self.identity.iter();
        let own: Vec<_> = own
            .map(|(chain, key)| json!({"certificate_chain": file(chain), "private_key": file(key)}))
            .collect();
        let version = "TLSv1_3";
        json!({"sni": self.sni, "common_tls_context": {
            "alpn_protocols": [alpn],
            "tls_params": {"tls_minimum_protocol_version": version, "tls_maximum_protocol_version": version},
            "tls_certificates": own,
            "validation_context": {
                "trusted_ca": file(self.roots),
                "match_typed_subject_alt_names": [self.san],
            },
        }})
    }
}

/// A TCP listener whose connections become CONNECT requests for `authority` at `server`.
fn config(listen: u16, authority: &str, server: (&str, u16), alpn: &str, trust: &Trust<'_>) -> Value {
    let typed = |kind: &str, mut value: Value| {
        value["@type"] = json!(format!("{EXTENSIONS}.{kind}"));
        value
    };
    let address = |host: &str, port: u16| json!({"socket_address": {"address": host, "port_value": port}});
    let (socket, options) = if alpn == "h2" {
        let tls = typed("transport_sockets.tls.v3.UpstreamTlsContext", trust.context(alpn));
        (json!({"name": "envoy.transport_sockets.tls", "typed_config": tls}), "http2_protocol_options")
    } else {
        let tls = json!({"upstream_tls_context": trust.context(alpn)});
        let quic = typed("transport_sockets.quic.v3.QuicUpstreamTransport", tls);
        (json!({"name": "envoy.transport_sockets.quic", "typed_config": quic}), "http3_protocol_options")
    };
    let protocol = json!({"explicit_http_config": {options: {}}});
    let protocol = typed("upstreams.http.v3.HttpProtocolOptions", protocol);
    let endpoint = json!({"endpoint": {"address": address(server.0, server.1)}});
    let proxy = json!({"stat_prefix": "t", "cluster": "server", "tunneling_config": {"hostname": authority}});
    let proxy = typed("filters.network.tcp_proxy.v3.TcpProxy", proxy);
    let filter = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy});
    json!({"static_resources": {
        "listeners": [{
            "name": "in", "address": address("127.0.0.1", listen), "filter_chains": [{"filters": [filter]}],
        }],
        "clusters": [{
            "name": "server", "type": "STATIC", "connect_timeout": "5s", "transport_socket": socket,
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
            "load_assignment": {"cluster_name": "server", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }],
    }})
}

fn start(mut command: Command, config: &Value, folder: &Path) -> Envoy {
    let file = folder.join("envoy.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let log = std::fs::File::create(folder.join("envoy.log")).unwrap();
    command.arg("-c").arg(file).args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
    Envoy(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

#[test]
fn envoy_connects_over_http2_to_a_gateway() {
    tool("curl", "curl");
    let fabric = Fabric::up();
    let roots = fabric.roots("aws-eu");
    let trust = Trust {
        sni: "aws-eu",
        roots: &roots,
        san: json!({"san_type": "URI", "matcher": {
            "exact": "spiffe://aws-eu.demo.hansa.dev/hansa/gateway/gateway-1",
        }}),
        identity: Some(fabric.identity("gcp-eu", "gateway-1")),
    };
    let (host, port) = fabric.link("aws-eu", "gateway-1");
    let authority = "checkout.shop.svc.clusterset.local:80";
    let config = config(18_002, authority, (&host, port), "h2", &trust);
    let _envoy = start(fabric.in_place("gcp-eu", "gateway-1", &envoy()), &config, &fabric.path(""));
    let mut curl = fabric.in_place("gcp-eu", "gateway-1", Path::new("curl"));
    // Again until Envoy listens; then each of the requests must be served.
    curl.args(["-sS", "--fail", "--max-time", "10", "--retry", "50", "--retry-connrefused"]);
    curl.args(["--retry-delay", "1", "http://127.0.0.1:18002/[1-20]"]);
    let said = text(curl.output().unwrap());
    assert_eq!(said.matches("\"member\":\"aws-eu\"").count(), 20, "{said}");
}

/// Serves one connection of Envoy: two tunnels, both ways of half-closing.
async fn serve(listener: Listener) {
    let mut end = listener.accept().await;
    let ok = hansa_http3::ResponseHead::new(StatusCode::OK);
    let (head, respond, mut recv) = end.requests.next().await.unwrap();
    assert_eq!(head, {
        let mut plain = hansa_http3::RequestHead::connect("shop.example:80");
        plain.headers.clone_from(&head.headers);
        plain
    });
    let mut send = respond.respond(&ok).await.unwrap();
    // The client ends first; what it said comes back after its end.
    let said = read_all(&mut recv).await;
    send.data(said.into()).await.unwrap();
    send.finish().await.unwrap();
    // The server ends first.
    let (_, respond, mut recv) = end.requests.next().await.unwrap();
    let mut send = respond.respond_with(&ok, bytes("that is all")).await.unwrap();
    send.finish().await.unwrap();
    assert_eq!(read_all(&mut recv).await, b"still talking");
    // Envoy closes the connection in its own time; the test does not wait for that.
    drop(end);
}

fn dial(port: u16) -> TcpStream {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                return stream;
            }
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "Envoy: {error}"),
        }
        std::thread::yield_now();
    }
}

/// The application behind Envoy: blocking, on a thread of its own.
fn talk(port: u16) {
    use std::io::{Read as _, Write as _};
    use std::net::Shutdown;
    let mut first = dial(port);
    let big = "over three hops ".repeat(20_000);
    first.write_all(big.as_bytes()).unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    first.read_to_string(&mut back).unwrap();
    assert!(back == big, "{} of {} bytes came back", back.len(), big.len());

    let mut second = dial(port);
    let mut said = String::new();
    second.read_to_string(&mut said).unwrap();
    assert_eq!(said, "that is all");
    second.write_all(b"still talking").unwrap();
    second.shutdown(Shutdown::Write).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_connects_over_http3_to_our_codec() {
    let certificate = Certificate::new();
    let listener = Listener::new(&certificate);
    let chain = certificate.chain();
    let trust = Trust {
        sni: "localhost",
        roots: &chain,
        san: json!({"san_type": "DNS", "matcher": {"exact": "localhost"}}),
        identity: None,
    };
    // Free a moment ago; nothing else on this machine binds it meanwhile.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = config(free, "shop.example:80", ("127.0.0.1", listener.port), "h3", &trust);
    let folder = tempfile::tempdir().unwrap();
    let _envoy = start(Command::new(envoy()), &config, folder.path());
    let client = tokio::task::spawn_blocking(move || talk(free));
    let both = async { tokio::join!(serve(listener), async { client.await.unwrap() }) };
    soon(both).await;
}
