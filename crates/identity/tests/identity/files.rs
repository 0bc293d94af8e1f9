//! The state folder: modes, crashes, broken files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use hansa_identity::ca::Ca;
use hansa_identity::store::{IdentityError, Store, StoreError, read_secret, set_aside, write_secret};

use crate::fixture::*;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_identity_is_kept_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    assert!(store.load().unwrap().is_none());
    assert!(store.load_bundle(&domain("a")).unwrap().is_none());
    let a = Member::new("a");
    let identity = a.identity(&gateway());
    store.save(&identity).unwrap();
    store.save(&a.identity(&gateway())).unwrap();
    store.save(&identity).unwrap();
    store.save_bundle(&a.bundle()).unwrap();
    assert_eq!(mode(&store.identity_path()), 0o600);
    assert_eq!(store.load().unwrap().unwrap().leaf(), identity.leaf());
    assert_eq!(store.load_bundle(&domain("a")).unwrap(), Some(a.bundle()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}

#[test]
fn keys_others_may_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    store.save(&Member::new("a").identity(&gateway())).unwrap();
    for bad in [0o644, 0o640, 0o602] {
        fs::set_permissions(store.identity_path(), fs::Permissions::from_mode(bad)).unwrap();
        let refused = store.load().unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, IdentityError::Store(StoreError::Permissions { .. })), "{text}");
        assert!(text.contains("chmod 600"), "{text}");
    }
    let ca = dir.path().join("ca.json");
    Member::new("a").ca.save(&ca).unwrap();
    assert_eq!(mode(&ca), 0o600);
    Ca::load(&ca).unwrap();
    fs::set_permissions(&ca, fs::Permissions::from_mode(0o644)).unwrap();
    Ca::load(&ca).unwrap_err();
}

#[test]
fn broken_files_are_refused_and_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let whole = {
        store.save(&Member::new("a").identity(&gateway())).unwrap();
        fs::read(store.identity_path()).unwrap()
    };
    for broken in [&b""[..], b"\0\xff", &whole[..whole.len() / 2], &whole[..whole.len() - 40]] {
        write_secret(&store.identity_path(), broken).unwrap();
        store.load().unwrap_err();
        let aside = set_aside(&store.identity_path()).unwrap();
        assert_eq!(fs::read(aside).unwrap(), broken);
        assert!(store.load().unwrap().is_none());
    }
    fs::write(store.bundle_path(), "{").unwrap();
    store.load_bundle(&domain("a")).unwrap_err();
}

#[test]
fn links_folders_and_giants_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    write_secret(&real, b"secret").unwrap();
    let link = dir.path().join("link");
    symlink(&real, &link).unwrap();
    assert!(matches!(read_secret(&link, 100), Err(StoreError::NotAFile(_))));
    assert!(matches!(read_secret(dir.path(), 100), Err(StoreError::NotAFile(_))));
    assert!(matches!(read_secret(&real, 5), Err(StoreError::TooLarge { .. })));
    assert_eq!(read_secret(&real, 6).unwrap(), b"secret");
    assert!(read_secret(&dir.path().join("none"), 5).unwrap_err().is_missing());
}

#[test]
fn a_failed_write_leaves_the_old_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    write_secret(&path, b"old").unwrap();
    // A folder in the way of the temporary file: nothing can be written.
    fs::create_dir(dir.path().join(format!(".x.{}.new", std::process::id()))).unwrap();
    write_secret(&path, b"new").unwrap_err();
    assert_eq!(read_secret(&path, 10).unwrap(), b"old");
}
