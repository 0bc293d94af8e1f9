//! multicluster.x-k8s.io (v0.5.0, v1beta1 and v1alpha1) and about.k8s.io kinds.
//!
//! Read from folders (`ServiceExport`, `ClusterProperty`), written by `plan` (`ServiceImport`,
//! conditions). Schemas of both MCS versions are identical.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

/// The versions accepted, the one written first.
pub const MCS_VERSIONS: [&str; 2] = ["multicluster.x-k8s.io/v1beta1", "multicluster.x-k8s.io/v1alpha1"];

/// `ServiceExport`: exports the Service of the same namespace and name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExport {
    /// Group and version.
    pub api_version: String,
    /// `ServiceExport`.
    pub kind: String,
    /// Namespace, name, creation time, annotations.
    pub metadata: ObjectMeta,
    /// What to publish beside the service.
    #[serde(default)]
    pub spec: ServiceExportSpec,
    /// Conditions; written only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ServiceExportStatus>,
}

/// `ServiceExport.spec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExportSpec {
    /// Labels to publish with the import.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_labels: BTreeMap<String, String>,
    /// Annotations to publish with the import.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_annotations: BTreeMap<String, String>,
}

/// `ServiceExport.status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceExportStatus {
    /// `Valid`, `Ready`, `Conflict`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// `ServiceImport`: written by the controller only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImport {
    /// Group and version.
    pub api_version: String,
    /// `ServiceImport`.
    pub kind: String,
    /// Namespace and name.
    pub metadata: ObjectMeta,
    /// What was merged.
    pub spec: ServiceImportSpec,
    /// Who exports it, and conditions.
    pub status: ServiceImportStatus,
}

/// `ServiceImport.spec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportSpec {
    /// Merged ports.
    pub ports: Vec<ServiceImportPort>,
    /// Clusterset addresses, at most two.
    #[serde(default)]
    pub ips: Vec<String>,
    /// `ClusterSetIP` or `Headless`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `None` or `ClientIP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<String>,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// `PreferSameZone`, `PreferSameNode` or `PreferClose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    /// Families in the order of `ips`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<String>,
}

/// A port of a ServiceImport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportPort {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// TCP or UDP.
    pub protocol: String,
    /// What it speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// The number.
    pub port: u16,
}

/// `ServiceImport.status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceImportStatus {
    /// Exporting clusters.
    #[serde(default)]
    pub clusters: Vec<ClusterStatus>,
    /// `Ready`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// One exporting cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its id.
    pub cluster: String,
}

/// about.k8s.io/v1beta1 `ClusterProperty` (v1 and v1alpha1 accepted).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterProperty {
    /// Group and version.
    pub api_version: String,
    /// `ClusterProperty`.
    pub kind: String,
    /// The property's name.
    pub metadata: ObjectMeta,
    /// Its value.
    pub spec: ClusterPropertySpec,
}

/// `ClusterProperty.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPropertySpec {
    /// 1 to 128,000 code points.
    pub value: String,
}
