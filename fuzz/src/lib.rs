//! What all fuzz targets share: finding a crate's entry point by name. Called by `targets/*.rs`.

/// Runs the target of that name; a name that is not there is a fault of the caller.
pub fn run(targets: &[(&str, fn(&[u8]))], name: &str, data: &[u8]) {
    let found = targets.iter().find(|target| target.0 == name);
    assert!(found.is_some(), "no target {name}");
    if let Some((_, law)) = found {
        law(data);
    }
}
