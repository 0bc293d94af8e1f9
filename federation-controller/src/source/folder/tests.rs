//! A look that ends in a panic.

use super::*;

fn codes(own: &Own) -> Vec<u16> {
    own.problems.iter().map(|problem| problem.code).collect()
}

const MANIFEST: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{port: 80}]}\n\
    ---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: a, namespace: shop}\n\
    ---\napiVersion: hansa.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {name: b}\n\
    spec: {trustDomain: b.td, gateways: ['h:1'], bundle: '{}'}\n";

#[tokio::test]
async fn a_look_that_panics_keeps_exports_and_peers() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(state.path()).unwrap();
    let facts = Facts { cluster: "a".parse().unwrap(), locality: "aws/eu".parse().unwrap() };
    std::fs::write(dir.path().join("a.yaml"), MANIFEST).unwrap();
    let (folder, own) = Folder::bind(dir.path().to_owned(), facts.clone(), state.path(), store.clone()).await;
    let before = own.borrow().clone();
    assert!(before.exports.len() == 1 && before.peers.len() == 1, "{:?}", before.problems);
    drop(folder);

    let (mut folder, own) = Folder::new(dir.path().to_owned(), facts, state.path(), store.clone());
    for _ in 0..2 {
        folder.look_by(|_| panic!("a fault")).await;
        let after = own.borrow().clone();
        assert_eq!((&after.exports, &after.peers), (&before.exports, &before.peers));
        assert_eq!(codes(&after), [2005]);
        assert!(after.hidden.all, "no peer is dropped");
    }
    folder.look().await;
    assert_eq!(*own.borrow(), before, "read after all");

    // Later ones keep what is in force, also what is not kept for a restart.
    let mut batch = Batch::default();
    batch.delete_all(kept::PREFIX);
    assert!(store.commit(batch).await);
    folder.look_by(|_| panic!("a fault")).await;
    let after = own.borrow().clone();
    assert_eq!((&after.exports, &after.peers), (&before.exports, &before.peers));
    assert_eq!((codes(&after), after.hidden.all), (vec![2005], true));
    folder.look().await;
    assert_eq!(*own.borrow(), before);
}
