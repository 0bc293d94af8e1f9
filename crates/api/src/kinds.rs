//! hansa's and the MCS kinds as they stand in YAML.
//!
//! Called by `convert` and by the controller's plan. `Service` and `EndpointSlice` are those of
//! k8s-openapi. Unknown fields of standard kinds are ignored, as the API server does; unknown fields
//! of our own kinds are refused.

pub mod mcs;
pub mod peer;
