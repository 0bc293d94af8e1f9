//! Which addresses are names, judged from what gateways said.

use hansa_proto::convert::report::{GatewayReport, NodeInfo};

use super::*;
use crate::nodes::{Came, Kind, Nodes, Said};
use crate::store::Store;

const SERVICE: &str = "shop/web";

struct Scene {
    nodes: Nodes,
    before: Zone,
    route: Arc<ServiceRoute>,
    introduced: BTreeMap<IpAddr, u64>,
    _dir: tempfile::TempDir,
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let nodes = Nodes::load(&Store::open(dir.path()).unwrap());
    let vips = [("g-1", 1), ("g-2", 2)].map(|(id, n)| (id.parse().unwrap(), vec![ip(n)]));
    let route = ServiceRoute {
        service: SERVICE.parse().unwrap(),
        kind: ServiceType::ClusterSetIP,
        ports: Vec::new(),
        affinity: hansa_core::catalog::Affinity::None,
        vips: vips.into_iter().collect(),
        clusters: Vec::new(),
        hosts: Vec::new(),
        local: None,
    };
    let introduced = BTreeMap::from([(ip(1), 10), (ip(2), 10)]);
    Scene { nodes, before: Zone::default(), route: Arc::new(route), introduced, _dir: dir }
}

impl Scene {
    fn says(&self, id: &str, ready: bool, report: GatewayReport) {
        let id = id.parse().unwrap();
        let info = NodeInfo { ready, draining: !ready, ..NodeInfo::default() };
        self.nodes.hello(Kind::Gateway, &id, 1, Came { info: Some(info), follower: None });
        self.nodes.said(Kind::Gateway, &id, 1, Said { report: Some(report), ..Said::default() });
    }

    fn bound(&self, id: &str, bound_version: u64) {
        self.says(id, true, GatewayReport { bound_version, ..GatewayReport::default() });
    }

    fn ips(&mut self) -> Vec<IpAddr> {
        let gateways = self.nodes.all(Kind::Gateway);
        let listening = Listening { gateways: &gateways, introduced: &self.introduced, before: &self.before };
        self.before = listening.zone([&self.route]);
        let service = self.before.services.get(&SERVICE.parse().unwrap());
        service.map(|service| service.ips.clone()).unwrap_or_default()
    }
}

#[test]
fn only_those_who_listen_and_may_get_traffic_are_named() {
    let mut scene = scene();
    assert!(scene.ips().is_empty());
    scene.bound("g-1", 9);
    assert!(scene.ips().is_empty(), "an older table");
    scene.bound("g-1", 10);
    assert_eq!(scene.ips(), [ip(1)]);
    scene.bound("g-2", 11);
    assert_eq!(scene.ips(), [ip(1), ip(2)]);
    scene.says("g-1", false, GatewayReport { bound_version: 11, ..GatewayReport::default() });
    assert_eq!(scene.ips(), [ip(2)], "draining");
}

#[test]
fn the_last_answer_stays_when_nobody_is_left() {
    let mut scene = scene();
    scene.bound("g-1", 10);
    scene.bound("g-2", 10);
    assert_eq!(scene.ips().len(), 2);
    for id in ["g-1", "g-2"] {
        scene.nodes.gone(Kind::Gateway, &id.parse().unwrap(), 1);
    }
    assert_eq!(scene.ips().len(), 2);
    scene.bound("g-2", 10);
    assert_eq!(scene.ips(), [ip(2)], "one is back: the dead one is withdrawn");
}

#[test]
fn what_cannot_be_bound_is_no_name_and_hidden_exports_are_no_rows() {
    let mut scene = scene();
    let unbound = vec![policy::Refusal { key: format!("service/{SERVICE}"), reason: "port taken".into() }];
    scene.says("g-1", true, GatewayReport { bound_version: 10, unbound, ..GatewayReport::default() });
    assert!(scene.ips().is_empty());

    let local = |to: Option<&str>| hansa_core::catalog::LocalService {
        export_to: to.map(|id| [id.parse().unwrap()].into_iter().collect()),
        endpoints: Vec::new(),
    };
    let export = |name: &str| hansa_core::catalog::Export {
        service: name.parse().unwrap(),
        created: 0,
        kind: ServiceType::ClusterSetIP,
        ports: Vec::new(),
        affinity: hansa_core::catalog::Affinity::None,
        traffic: Default::default(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        endpoints: Vec::new(),
        hosts: Vec::new(),
    };
    let mut own = Own::default();
    for (name, to) in [("shop/all", None), ("shop/some", Some("b"))] {
        own.exports.insert(name.parse().unwrap(), (export(name), local(to)));
    }
    let rows: Rows =
        ["cluster", "export/shop/all", "export/shop/some"].map(|k| (k.to_owned(), Default::default())).into();
    assert_eq!(visible(&rows, &own, &"b".parse().unwrap()).len(), 3);
    assert_eq!(visible(&rows, &own, &"c".parse().unwrap()).len(), 2);
}
