//! A DNS server with a made-up zone of ten thousand services and no controller: for load generators.
//!
//! `cargo run -p hansa-dns --example answer -- 127.0.0.1:5354`

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use hansa_core::catalog::ServiceType;
use hansa_core::name::ServiceName;
use hansa_core::zone::{Zone, ZoneService};
use hansa_dns::{Config, Process, Served, Server};
use hansa_identity::ca::{Ca, CaOptions};
use hansa_runtime::config::{Sources, load};
use hansa_runtime::drain::Drain;
use hansa_runtime::ready::Ready;
use hansa_runtime::tasks::Tasks;

fn zone() -> Result<Zone, Box<dyn Error>> {
    let mut zone = Zone::default();
    for i in 0..10_000u32 {
        let [_, b, c, d] = i.to_be_bytes();
        zone.insert(ZoneService {
            service: ServiceName::new(&format!("ns-{}", i % 100), &format!("svc-{i}"))?,
            kind: ServiceType::ClusterSetIP,
            ports: Vec::new(),
            ips: vec![IpAddr::V4(Ipv4Addr::new(10, b, c, d))],
            hosts: Vec::new(),
        });
    }
    Ok(zone)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5354".to_owned());
    let dir = std::env::temp_dir().join(format!("hansa-answer-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    // It would enrol with a controller that is not there, and answers meanwhile.
    let ca = Ca::create("example".parse()?, CaOptions::default(), SystemTime::now())?;
    let bundle = dir.join("bundle.json");
    std::fs::write(&bundle, ca.bundle().to_json())?;
    let text = format!(
        "id: dns-0\ncluster: example\nstateDir: {}\nlisten: ['{address}']\nadmin: {{listen: '127.0.0.1:0'}}\nhealth: {{listen: '127.0.0.1:0'}}\n\
         controller: ['127.0.0.1:1']\n\
         serviceAccount: {{tokenFile: /dev/null, bundleFile: {}, trustDomain: example}}\n",
        dir.display(),
        bundle.display()
    );
    let config = load::<Config>(&Sources::default().text("answer.yaml", text))?.config;
    let process = Process { tasks: Tasks::new(), drain: Drain::new(), ready: Ready::new(), logs: None };
    process.drain.listen(&process.tasks, &process.ready, || {})?;
    let server = Server::bind(config, process).await?;
    server.shelf().store(Served { zone: Arc::new(zone()?), serial: 1 });
    println!("answering on {:?}", server.addresses());
    let ended = server.run().await;
    std::fs::remove_dir_all(&dir)?;
    Ok(ended?)
}
