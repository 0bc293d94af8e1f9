//! `hansa version`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::args::Context;
use crate::exit::{Exit, Failure};

/// What this binary is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Version {
    /// Semantic version.
    pub(crate) version: String,
    /// The commit it was built from, `unknown` if the build did not tell.
    pub(crate) commit: String,
    /// Processor architecture and system.
    pub(crate) platform: String,
}

impl Version {
    /// That of this binary.
    pub(crate) fn this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.to_owned(),
            platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        }
    }
}

/// The commit, if the build told it by HANSA_COMMIT.
pub(crate) const COMMIT: &str = match option_env!("HANSA_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

pub(crate) fn run(context: &Context) -> Result<Exit, Failure> {
    let version = Version::this();
    let text = format!("hansa {} ({}) {}", version.version, version.commit, version.platform);
    context.output.value(&version, || text)?;
    Ok(Exit::Ok)
}
