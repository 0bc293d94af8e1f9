//! The store on disks that are full, gone, cut or altered.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn put(store: &Store, key: &str, body: &str) -> bool {
    let mut batch = Batch::default();
    batch.put(key, body);
    store.commit_now(&batch)
}

#[test]
fn rows_survive_and_scan_by_prefix() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::open(dir.path()).unwrap();
        assert!(put(&store, "peer/b", "2") && put(&store, "peer/a", "1") && put(&store, "q", "x"));
        assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse(_))));
    }
    let store = Store::open(dir.path()).unwrap();
    let rows = store.scan("peer/");
    assert_eq!(rows, [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
    assert_eq!(store.get("q"), Some(b"x".to_vec()));
    let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_corrupt_file_is_set_aside_and_a_new_one_begun() {
    for damage in ["garbage", "cut", "flipped"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        {
            let store = Store::open(dir.path()).unwrap();
            for i in 0..200 {
                put(&store, &format!("row/{i}"), &"x".repeat(200));
            }
        }
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            "garbage" => bytes = b"not a store".repeat(1000),
            "cut" => bytes.truncate(bytes.len() / 3),
            _ => bytes.iter_mut().skip(512).for_each(|b| *b = !*b),
        }
        std::fs::write(&path, &bytes).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.scan("").is_empty(), "{damage}");
        assert!(put(&store, "a", "b") && store.healthy(), "{damage}");
        let aside = dir.path().join(format!("{FILE}.corrupt-1"));
        assert_eq!(std::fs::read(aside).unwrap(), bytes, "{damage}");
    }
}

#[test]
fn without_a_folder_it_runs_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("missing")).unwrap();
    assert!(!store.healthy());
    assert!(!put(&store, "a", "b"), "it is not on disk");
    assert_eq!(store.get("a"), Some(b"b".to_vec()));
    assert!(!store.heal());
    std::fs::create_dir(dir.path().join("missing")).unwrap();
    assert!(store.heal() && store.healthy() && put(&store, "c", "d"));
    drop(store);
    let again = Store::open(&dir.path().join("missing")).unwrap();
    assert_eq!((again.get("a"), again.get("c")), (Some(b"b".to_vec()), Some(b"d".to_vec())));
}

#[test]
fn a_file_that_cannot_be_written_is_read_and_later_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    {
        let store = Store::open(dir.path()).unwrap();
        assert!(put(&store, "peer/a", "1") && put(&store, "peer/b", "2"));
    }
    // A folder in its place stands for a disk that takes nothing: even root cannot write it.
    let kept = dir.path().join("kept");
    std::fs::rename(&path, &kept).unwrap();
    let memory = disk::in_memory(&kept).unwrap();
    assert!(matches!(memory, Place::Memory { whole: true, .. }));
    assert_eq!(memory.scan("peer/").unwrap().len(), 2);
    std::fs::create_dir(&path).unwrap();
    let store = Store::open(dir.path()).unwrap();
    *store.inner.place.write().unwrap() = memory;
    let mut batch = Batch::default();
    batch.delete("peer/a").put("peer/c", "3");
    assert!(!store.commit_now(&batch) && !store.healthy() && !store.heal());
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&kept, &path).unwrap();
    assert!(store.heal() && store.healthy());
    drop(store);
    let keys: Vec<String> =
        Store::open(dir.path()).unwrap().scan("peer/").into_iter().map(|row| row.0).collect();
    assert_eq!(keys, ["b", "c"], "what was removed meanwhile is gone, what came is there");
}

#[test]
fn what_was_removed_while_the_file_could_not_be_read_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    {
        let store = Store::open(dir.path()).unwrap();
        for key in ["catalog/a/1", "catalog/a/2", "catalog/b/1", "peer/a", "peer/b"] {
            assert!(put(&store, key, "old"));
        }
    }
    let kept = dir.path().join("kept");
    std::fs::rename(&path, &kept).unwrap();
    // A folder in its place: nothing can be read.
    std::fs::create_dir(&path).unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut batch = Batch::default();
    batch.delete("peer/a").delete_all("catalog/a/").put("catalog/a/3", "new");
    assert!(!store.commit_now(&batch) && store.scan("peer/").is_empty());
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&kept, &path).unwrap();
    assert!(store.heal());
    drop(store);
    let keys: Vec<String> = Store::open(dir.path()).unwrap().scan("").into_iter().map(|row| row.0).collect();
    assert_eq!(keys, ["catalog/a/3", "catalog/b/1", "peer/b"]);
}
