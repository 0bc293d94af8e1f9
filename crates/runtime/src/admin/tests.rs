//! Tests of the admin endpoint over real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::metrics::Families;
use crate::ready::Ready;

const LONG: Duration = Duration::from_secs(20);

struct Running {
    addr: SocketAddr,
    health: SocketAddr,
    tasks: Tasks,
}

async fn start(ready: &Ready) -> Running {
    let mut families = Families::new();
    families.add_process();
    let pages = Pages::new(ready.clone())
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
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
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
