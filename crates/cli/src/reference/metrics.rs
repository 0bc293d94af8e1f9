//! The metrics reference: every family of every server, as it describes itself.

use hansa_runtime::metrics::{Families, Row, markdown};

use super::GENERATED;

const INTRODUCTION: &str = "\
Each server gives its families in the OpenMetrics text format at `/metrics` of its admin endpoint.
Units are seconds and bytes. Labels are bounded: clusters, services, gateways and outcomes, never
client addresses or paths.
";

pub(super) fn metrics() -> String {
    let servers = [
        ("controller", hansa_controller::metrics::rows()),
        ("gateway", hansa_gateway::metric_rows()),
        ("dns", dns()),
    ];
    let mut text = format!("# Metrics\n\n{GENERATED}\n{INTRODUCTION}");
    for (name, rows) in servers {
        text.push_str(&format!("\n## hansa {name}\n\n{}", markdown(&rows)));
    }
    text
}

fn dns() -> Vec<Row> {
    let mut families = Families::new();
    hansa_dns::DnsMetrics::default().register(&mut families);
    families.add_process();
    families.add_build_info("hansa", "dns", "", "");
    families.describe().to_vec()
}
