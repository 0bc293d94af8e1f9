//! Manifests to core values: what is taken, what is refused, and with which reason.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use hansa_api::convert::{self, Object, Settings};
use hansa_core::catalog::{InternalTraffic, Protocol, ServiceType, Traffic};
use hansa_core::code::manifest;

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  internalTrafficPolicy: Local
  trafficDistribution: PreferClose
  ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 80, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: checkout-1, namespace: shop, labels: {kubernetes.io/service-name: checkout}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.1.1], zone: a}
- {addresses: [10.0.1.2], zone: b, conditions: {ready: false}}
- {addresses: [nonsense]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: checkout, namespace: shop, creationTimestamp: "2026-01-02T03:04:05Z", annotations: {hansa.dev/export-to: "a, b"}}
"#;

fn parts(text: &str) -> (Vec<Object>, Vec<convert::Refused>) {
    convert::read(text).unwrap()
}

#[test]
fn an_export_with_endpoints() {
    let (objects, refused) = parts(SHOP);
    assert!(refused.is_empty(), "{refused:?}");
    let [Object::Service(service), Object::EndpointSlice(slice), Object::ServiceExport(export)] =
        &objects[..]
    else {
        panic!("{objects:?}")
    };
    let settings = Settings { locality: "aws/eu".parse().unwrap(), created: 7 };
    let name = "shop/checkout".parse().unwrap();
    let (value, local, left_out) =
        convert::export(&name, export, Some(service), &[slice], &settings).unwrap();
    assert_eq!(value.kind, ServiceType::ClusterSetIP);
    assert_eq!(value.created, 1_767_323_045_000);
    assert_eq!(value.ports.len(), 2);
    let wanted = Traffic { internal: InternalTraffic::Local, distribution: Some("PreferClose".into()) };
    assert_eq!(value.traffic, wanted);
    assert_eq!(value.ready(), 1);
    assert_eq!(value.endpoints.iter().map(|e| e.total).sum::<u32>(), 2);
    assert_eq!(local.endpoints[0].locality.to_string(), "aws/eu/a");
    assert_eq!(local.endpoints[0].ports.len(), 1, "only the port that the slice has");
    assert_eq!(
        (local.endpoints[0].ports[0].protocol, local.endpoints[0].ports[0].target),
        (Protocol::Tcp, 8080)
    );
    assert_eq!(local.export_to.unwrap().len(), 2);
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    let invalid = convert::export(&name, export, None, &[], &settings).unwrap_err();
    assert_eq!(invalid.reason, "NoService");
}

#[test]
fn bad_files_are_refused_whole_and_bad_objects_alone() {
    let code = |text: &str| convert::read(text).unwrap_err().code;
    assert_eq!(code(""), manifest::YAML_INVALID);
    assert_eq!(code("a: [1"), manifest::YAML_INVALID);
    assert_eq!(code("a: 1\na: 2\n"), manifest::YAML_INVALID);
    assert_eq!(code(&"a".repeat(5 << 20)), manifest::YAML_TOO_LARGE);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
        d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
        g: [*f,*f,*f,*f,*f,*f,*f,*f]\n";
    assert_eq!(code(bomb), manifest::YAML_INVALID);
    let (objects, refused) = parts(&format!(
        "{SHOP}---\napiVersion: hansa.dev/v1alpha1\nkind: LocalityFailoverPolicy\nmetadata: {{name: x}}\n\
         ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\n---\n{{}}\n"
    ));
    assert_eq!(objects.len(), 3);
    let codes: Vec<_> = refused.iter().map(|r| r.code).collect();
    assert_eq!(codes, [manifest::KIND_UNSUPPORTED, manifest::OBJECT_INVALID]);
    assert!(refused[0].message.contains("not supported yet"), "{}", refused[0]);
}

#[test]
fn peers_are_checked() {
    let peer = |spec: &str| {
        let text = format!(
            "apiVersion: hansa.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {{name: gcp-eu}}\nspec: {spec}"
        );
        let (objects, refused) = parts(&text);
        match &objects[..] {
            [Object::ClusterPeer(object)] => convert::peer(object).map_err(|r| r.message),
            _ => Err(refused[0].message.clone()),
        }
    };
    let good =
        peer("{trustDomain: g.example, bundle: '{}', gateways: ['gw:15443'], accept: {namespaces: [shop]}}");
    assert_eq!(good.unwrap().gateways, ["gw:15443"]);
    for bad in [
        "{trustDomain: G, bundle: ''}",
        "{trustDomain: g, bundle: '', gateways: [gw]}",
        "{trustDomain: g, bundle: '', transport: tcp}",
        "{trustDomain: g, bundle: '', acept: {}}",
    ] {
        assert!(peer(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_mistyped_is_refused_by_name_and_never_passed_over() {
    let peer = "apiVersion: hansa.de/v1alpha1\nkind: ClusterPeer\nmetadata: {name: b}\nspec: {}\n";
    let list = "apiVersion: v1\nkind: List\nitem: []\n";
    let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b}\n";
    let (objects, refused) = parts(&format!("{peer}---\n{list}---\n{other}"));
    assert!(objects.is_empty());
    let said: Vec<(&str, u16)> = refused.iter().map(|r| (r.object.as_str(), r.code.number)).collect();
    assert_eq!(said, [("ClusterPeer b", 2006), ("List ", 2003)]);
    assert_eq!(parts("apiVersion: v1\nkind: List\nitems: []\n"), (Vec::new(), Vec::new()));
}

#[test]
fn objects_are_kept_and_read_again_and_named_as_refusals_name_them() {
    let (objects, _) = parts(SHOP);
    let text = serde_json::to_vec(&objects).unwrap();
    assert_eq!(serde_json::from_slice::<Vec<Object>>(&text).unwrap(), objects);
    let ids: Vec<String> = objects.iter().map(Object::id).collect();
    assert_eq!(
        ids,
        ["Service shop/checkout", "EndpointSlice shop/checkout-1", "ServiceExport shop/checkout"]
    );
    let bare = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
    assert_eq!(parts(bare).0[0].id(), "Service default/web");
}
