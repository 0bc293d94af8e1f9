//! `hansa services`: what is imported, from where, and under which addresses.

use hansa_api::{control, view};

use crate::args::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Table, Tone};

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let services: Vec<view::Service> = context.client.get(control::SERVICES, &[]).await?;
    context.output.value(&services, || render(&services, context.output.color))?;
    Ok(Exit::Ok)
}

fn render(services: &[view::Service], color: bool) -> String {
    if services.is_empty() {
        return "no services; a ServiceExport in any member makes one\n".to_owned();
    }
    let mut table = Table::new(&["NAME", "KIND", "CLUSTERS", "PORTS", "ADDRESSES", "CONDITIONS"]);
    for service in services {
        table.row([
            (&service.name).into(),
            (&service.kind).into(),
            service.clusters.join(" ").into(),
            service.ports.join(", ").into(),
            service.vips.join(" ").into(),
            conditions(&service.conditions),
        ]);
    }
    table.render(color)
}

fn conditions(conditions: &[view::Condition]) -> Cell {
    let shown = |c: &view::Condition| match c.status.as_str() {
        "True" => format!("{}({})", c.kind, c.reason),
        status => format!("{}={status}({})", c.kind, c.reason),
    };
    let well = conditions.iter().all(|c| c.kind == "Ready" && c.status == "True");
    if well {
        return Cell::new(if conditions.is_empty() { "" } else { "Ready" }, Tone::Good);
    }
    Cell::new(conditions.iter().map(shown).collect::<Vec<_>>().join(" "), Tone::Warn)
}
