//! Tests of the admin endpoint over real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::logs;
use crate::metrics::Families;
use crate::ready::Ready;

const LONG: Duration = Duration::from_secs(20);

struct Running {
    addr: SocketAddr,
    health: SocketAddr,
    tasks: Tasks,
}

async fn start(ready: &Ready) -> Running {
    start_with(Pages::new(ready.clone())).await
}

async fn start_with(pages: Pages) -> Running {
    let mut families = Families::new();
    families.add_process();
    let pages = pages
        .metrics(families.finish())
        .snapshot(|| "{\"tunnels\":3}".to_owned())
        .config(|| "{\"id\":\"a\"}".to_owned());
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let admin = Admin::bind(any, Some(any), pages).await.unwrap();
    let (addr, health) = (admin.local_addr().unwrap(), admin.health_addr().unwrap().unwrap());
    let tasks = Tasks::new();
    tasks.spawn_critical("admin", admin.run(tasks.clone(), tasks.token()));
    Running { addr, health, tasks }
}

async fn ask(addr: SocketAddr, request: &str) -> (u16, String) {
    send(addr, request, "").await
}

async fn send(addr: SocketAddr, request: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn pages_answer_and_readiness_names_what_is_missing() {
    let ready = Ready::new();
    let table = ready.condition("first-table");
    let on = start(&ready).await;
    let (status, body) = ask(on.addr, "GET /readyz").await;
    assert_eq!(status, 503);
    let missing = r#"{"missing":[{"name":"first-table","reason":"not yet"}],"ready":false}"#;
    assert_eq!(body.trim(), missing);
    table.set();
    assert_eq!(ask(on.addr, "GET /readyz").await.0, 200);
    assert_eq!(ask(on.addr, "GET /livez").await.0, 200);
    assert_eq!(ask(on.addr, "GET /debug/snapshot").await.1, "{\"tunnels\":3}");
    assert_eq!(ask(on.addr, "GET /debug/config").await.1, "{\"id\":\"a\"}");
    let (_, metrics) = ask(on.addr, "GET /metrics").await;
    assert!(metrics.contains("process_cpu_seconds_total ") && metrics.ends_with("# EOF\n"));
    let (status, body) = ask(on.addr, "GET /nothing").await;
    assert!(status == 404 && body.contains("/debug/snapshot"), "{body}");
    assert_eq!(ask(on.addr, "DELETE /readyz").await.0, 405);
    assert!(on.tasks.shutdown(LONG).await);
    assert_eq!(on.tasks.failure(), None);
}

#[tokio::test]
async fn the_health_address_shows_health_alone() {
    let on = start(&Ready::new()).await;
    assert_eq!(ask(on.health, "GET /readyz").await.0, 200);
    for hidden in ["/metrics", "/debug/snapshot", "/debug/config", "/debug/loglevel"] {
        assert_eq!(ask(on.health, &format!("GET {hidden}")).await.0, 404, "{hidden}");
    }
    assert!(on.tasks.shutdown(LONG).await);
}

#[tokio::test]
async fn silent_clients_cannot_keep_others_out_for_good() {
    let on = start(&Ready::new()).await;
    let mut silent = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        silent.push(TcpStream::connect(on.addr).await.unwrap());
    }
    // Served as soon as the header limit has cut the silent ones.
    let answer = tokio::time::timeout(LONG, ask(on.addr, "GET /livez")).await.unwrap();
    assert_eq!(answer.0, 200);
    assert!(on.tasks.shutdown(LONG).await);
}

#[tokio::test]
async fn a_taken_port_is_told_by_its_address() {
    let on = start(&Ready::new()).await;
    let error = Admin::bind(on.addr, None, Pages::new(Ready::new())).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {}", on.addr)), "{error}");
    assert!(on.tasks.shutdown(LONG).await);
}

#[tokio::test]
async fn the_log_level_is_shown_and_changed_and_nonsense_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = logs::Output::File(dir.path().join("log"));
    let options = logs::Options { output, ..logs::Options::default() };
    // The subscriber must live, or there is nothing to reload.
    let (logs, _subscriber) = logs::build(&options).unwrap();
    let on = start_with(Pages::new(Ready::new()).logs(logs.clone())).await;
    let page = "/debug/loglevel";
    assert!(ask(on.addr, &format!("GET {page}")).await.1.contains("\"level\":\"info\""));
    assert_eq!(send(on.addr, &format!("PUT {page}"), "debug,quinn=warn\n").await.0, 200);
    assert_eq!(logs.level(), "debug,quinn=warn");
    assert_eq!(send(on.addr, &format!("PUT {page}"), "access=off").await.0, 200);
    assert!(!logs.access());
    for (body, cause) in
        [("", "the body must be"), ("a=b=c", "is not a log level"), (&"x".repeat(5_000), "1 KiB")]
    {
        let (status, text) = send(on.addr, &format!("PUT {page}"), body).await;
        assert!(status == 400 && text.contains(cause), "{text}");
    }
    assert_eq!(send(on.addr, &format!("PUT {page}"), "warn").await.0, 200);
    assert!(on.tasks.shutdown(LONG).await);
}
