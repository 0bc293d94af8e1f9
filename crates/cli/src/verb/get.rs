//! `hansa get`: the standard objects with their conditions, as Kubernetes would show them.

use clap::{Args, ValueEnum};
use hansa_api::control;
use hansa_api::kinds::mcs::{ServiceExport, ServiceImport};
use serde_json::Value;

use crate::args::Context;
use crate::exit::{Exit, Failure};
use crate::output::Format;
use crate::table::Table;

const AFTER: &str = "\
Examples:
  hansa get serviceimports -o yaml
  hansa get serviceexports -o json | jq '.items[].status.conditions'";

/// Arguments of `hansa get`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct GetArgs {
    /// Which objects
    #[arg(value_enum)]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    #[value(alias = "serviceimport")]
    Serviceimports,
    #[value(alias = "serviceexport")]
    Serviceexports,
}

pub(crate) async fn run(args: &GetArgs, context: &Context) -> Result<Exit, Failure> {
    let (route, kind) = match args.kind {
        Kind::Serviceimports => (control::SERVICE_IMPORTS, "ServiceImportList"),
        Kind::Serviceexports => (control::SERVICE_EXPORTS, "ServiceExportList"),
    };
    let items: Vec<Value> = context.client.get(route, &[]).await?;
    if context.output.format == Format::Table {
        context.output.text(&table(args.kind, &items, context.output.color))?;
    } else {
        let version = hansa_api::kinds::mcs::MCS_VERSIONS[0];
        let list = serde_json::json!({ "apiVersion": version, "kind": kind, "items": items });
        context.output.value(&list, String::new)?;
    }
    Ok(Exit::Ok)
}

fn table(kind: Kind, items: &[Value], color: bool) -> String {
    match kind {
        Kind::Serviceimports => imports(&read(items), color),
        Kind::Serviceexports => exports(&read(items), color),
    }
}

/// Those a person's table can show; JSON and YAML show all of them as they are.
fn read<T: serde::de::DeserializeOwned>(items: &[Value]) -> Vec<T> {
    items.iter().filter_map(|item| serde_json::from_value(item.clone()).ok()).collect()
}

fn imports(items: &[ServiceImport], color: bool) -> String {
    let mut table = Table::new(&["NAMESPACE", "NAME", "TYPE", "IPS", "PORTS", "CLUSTERS"]);
    for item in items {
        let ports = item.spec.ports.iter().map(|p| format!("{}/{}", p.port, p.protocol));
        let clusters = item.status.clusters.iter().map(|c| c.cluster.clone());
        table.row([
            item.metadata.namespace.clone().unwrap_or_default().into(),
            item.metadata.name.clone().unwrap_or_default().into(),
            (&item.spec.kind).into(),
            item.spec.ips.join(" ").into(),
            ports.collect::<Vec<_>>().join(" ").into(),
            clusters.collect::<Vec<_>>().join(" ").into(),
        ]);
    }
    if table.is_empty() { "no ServiceImports\n".to_owned() } else { table.render(color) }
}

fn exports(items: &[ServiceExport], color: bool) -> String {
    let mut table = Table::new(&["NAMESPACE", "NAME", "CONDITIONS"]);
    for item in items {
        let conditions = item.status.iter().flat_map(|s| &s.conditions);
        let conditions = conditions.map(|c| format!("{}={}({})", c.type_, c.status, c.reason));
        table.row([
            item.metadata.namespace.clone().unwrap_or_default().into(),
            item.metadata.name.clone().unwrap_or_default().into(),
            conditions.collect::<Vec<_>>().join(" ").into(),
        ]);
    }
    if table.is_empty() { "no ServiceExports\n".to_owned() } else { table.render(color) }
}
