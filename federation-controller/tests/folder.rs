//! The folder source with real files: what changes, what stays, what is said.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hansa_controller::index::Facts;
use hansa_controller::source::Own;
use hansa_controller::source::folder::Folder;
use hansa_controller::store::{Store, StoreError};
use tokio::sync::watch;

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n\
         ---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{name: {name}, namespace: shop}}\n"
    )
}

fn put(dir: &Path, name: &str, text: &str) {
    let tmp = dir.join(format!(".{name}.tmp"));
    std::fs::write(&tmp, text).unwrap();
    std::fs::rename(tmp, dir.join(name)).unwrap();
}

struct Watched {
    own: watch::Receiver<Arc<Own>>,
    task: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    async fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()).await
    }

    async fn on(dir: tempfile::TempDir, state: tempfile::TempDir) -> Self {
        let facts = Facts { cluster: "a".parse().unwrap(), locality: "aws/eu".parse().unwrap() };
        // A look or a write of the one before may still be running off the runtime.
        let store = loop {
            match Store::open(state.path()) {
                Err(StoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                opened => break opened.unwrap(),
            }
        };
        let (folder, own) = Folder::bind(dir.path().join("."), facts, state.path(), store).await;
        let task = tokio::spawn(folder.run());
        Self { own, task, dir, state }
    }

    /// A controller that starts again after `meanwhile`.
    async fn restarted(mut self, meanwhile: impl FnOnce(&Path)) -> Self {
        self.task.abort();
        let (dir, state) = (
            std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()),
            std::mem::replace(&mut self.state, tempfile::tempdir().unwrap()),
        );
        meanwhile(dir.path());
        Self::on(dir, state).await
    }

    fn now(&self) -> Arc<Own> {
        self.own.borrow().clone()
    }

    async fn until(&mut self, what: &str, test: impl FnMut(&Arc<Own>) -> bool) -> Arc<Own> {
        let wait = tokio::time::timeout(Duration::from_secs(10), self.own.wait_for(test)).await;
        wait.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
    }
}

fn has(own: &Own, names: &[&str]) -> bool {
    own.exports.keys().map(|n| n.name.as_str()).eq(names.iter().copied())
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &service("a"));
    w.until("a", |o| has(o, &["a"])).await;
    put(w.dir.path(), "b.yaml", &service("b"));
    w.until("a b", |o| has(o, &["a", "b"])).await;
    std::fs::remove_file(w.dir.path().join("a.yaml")).unwrap();
    w.until("b", |o| has(o, &["b"])).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_objects() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &service("a"));
    w.until("a", |o| has(o, &["a"])).await;
    let good = service("a");
    let half = &good[..good.find("[{port").unwrap() + 5];
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, last) in
        ["b", "c", "d", "e", "f", "g", "h"].into_iter().zip(["a", "b", "c", "d", "e", "f", "g"])
    {
        bomb.push_str(&format!(
            "{name}: &{name} [*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last}]\n"
        ));
    }
    let twice = "kind: Service\nkind: Service\n";
    for (broken, code) in [
        ("kind: [", 2001),
        ("", 2001),
        (half, 2001),
        (twice, 2001),
        ("a: &a [*a, *a]", 2001),
        (&bomb, 2001),
        (&"x".repeat(5 << 20), 2002),
    ] {
        put(w.dir.path(), "a.yaml", broken);
        let own = w.until("a problem", |o| !o.problems.is_empty()).await;
        assert!(has(&own, &["a"]), "{:?}", own.problems);
        assert!(own.problems[0].object.starts_with("a.yaml"), "{:?}", own.problems);
        assert_eq!(own.problems[0].code, code, "{:?}", own.problems);
        // The other files are read meanwhile.
        put(w.dir.path(), "b.yaml", &service("b"));
        w.until("b beside it", |o| has(o, &["a", "b"]) && !o.problems.is_empty()).await;
        std::fs::remove_file(w.dir.path().join("b.yaml")).unwrap();
        put(w.dir.path(), "a.yaml", &service("a"));
        w.until("mended", |o| o.problems.is_empty() && has(o, &["a"])).await;
    }
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_without_being_read() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &service("a"));
    w.until("a", |o| has(o, &["a"])).await;
    let before = memory();
    let huge = w.dir.path().join("huge.yaml");
    std::fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    let own = w.until("a problem", |o| o.problems.iter().any(|p| p.code == 2002)).await;
    assert!(has(&own, &["a"]) && own.problems[0].object == "huge.yaml", "{:?}", own.problems);
    assert!(memory() < before + (64 << 10), "{before} kB before, {} kB after", memory());
}

/// The most memory this process ever had, in kB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_folder_that_is_gone_keeps_everything_and_comes_back() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &service("a"));
    w.until("a", |o| has(o, &["a"])).await;
    let away = w.dir.path().with_extension("away");
    std::fs::rename(w.dir.path(), &away).unwrap();
    let own = w.until("gone", |o| o.problems.iter().any(|p| p.code == 2005)).await;
    assert!(has(&own, &["a"]));
    std::fs::rename(&away, w.dir.path()).unwrap();
    put(w.dir.path(), "b.yaml", &service("b"));
    w.until("back", |o| o.problems.is_empty() && has(o, &["a", "b"])).await;
}

#[tokio::test]
async fn a_symlink_swap_is_one_change() {
    let mut w = Watched::new().await;
    let dir = w.dir.path().to_owned();
    for (version, name) in [("..1", "a"), ("..2", "b")] {
        std::fs::create_dir(dir.join(version)).unwrap();
        std::fs::write(dir.join(version).join("x.yaml"), service(name)).unwrap();
    }
    std::os::unix::fs::symlink("..1", dir.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/x.yaml", dir.join("x.yaml")).unwrap();
    w.until("a", |o| has(o, &["a"])).await;
    std::os::unix::fs::symlink("..2", dir.join("..tmp")).unwrap();
    std::fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
    w.until("b", |o| has(o, &["b"])).await;
}

#[tokio::test]
async fn a_link_that_leads_nowhere_or_to_a_pipe_keeps_the_last_good_objects() {
    let mut w = Watched::new().await;
    let dir = w.dir.path().to_owned();
    std::fs::write(dir.join("real"), service("a")).unwrap();
    let swap = |target: &Path| {
        std::os::unix::fs::symlink(target, dir.join(".new")).unwrap();
        std::fs::rename(dir.join(".new"), dir.join("x.yaml")).unwrap();
    };
    swap(&dir.join("real"));
    w.until("a", |o| has(o, &["a"])).await;
    let pipe = dir.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for hostile in [Path::new("/nonexistent"), Path::new("/dev/zero"), &pipe] {
        swap(hostile);
        let own = w.until("a problem", |o| !o.problems.is_empty()).await;
        assert!(has(&own, &["a"]), "{:?}", own.problems);
        assert_eq!((own.problems[0].code, own.problems[0].object.as_str()), (2001, "x.yaml"));
        swap(&dir.join("real"));
        w.until("mended", |o| o.problems.is_empty() && has(o, &["a"])).await;
    }
}

#[tokio::test]
async fn a_deleted_folder_keeps_everything_and_may_come_back() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &service("a"));
    w.until("a", |o| has(o, &["a"])).await;
    std::fs::remove_dir_all(w.dir.path()).unwrap();
    // Its files go one by one before the folder does: that is no removal.
    let own = w.until("gone", |o| o.problems.iter().any(|p| p.code == 2005)).await;
    assert!(has(&own, &["a"]), "{:?}", own.exports.keys());
    std::fs::create_dir(w.dir.path()).unwrap();
    put(w.dir.path(), "b.yaml", &service("b"));
    w.until("back", |o| o.problems.is_empty() && has(o, &["b"])).await;
}

#[tokio::test]
async fn the_first_of_two_files_counts() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "1.yaml", &service("a"));
    put(w.dir.path(), "2.yaml", &service("a"));
    let own = w.until("twice", |o| o.problems.iter().any(|p| p.code == 2004)).await;
    assert!(has(&own, &["a"]));
    assert!(own.problems.iter().all(|p| p.object.starts_with("2.yaml")), "{:?}", own.problems);
}

#[tokio::test]
async fn the_age_of_an_export_survives_a_restart() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &service("a"));
    let name = "shop/a".parse().unwrap();
    let before = w.until("a", |o| has(o, &["a"])).await.exports[&name].0.created;
    let mut again = w.restarted(|_| {}).await;
    let after = again.until("a again", |o| has(o, &["a"])).await.exports[&name].0.created;
    assert_eq!(before, after);
}

#[tokio::test]
async fn an_export_that_comes_again_is_new_whatever_else_stands_twice() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "1.yaml", &service("a"));
    put(w.dir.path(), "2.yaml", &service("a"));
    put(w.dir.path(), "c.yaml", &service("c"));
    let twice = |o: &Own| o.problems.iter().any(|p| p.code == 2004);
    let before = w.until("all", |o| has(o, &["a", "c"]) && twice(o)).await;
    std::fs::remove_file(w.dir.path().join("c.yaml")).unwrap();
    w.until("gone", |o| has(o, &["a"]) && twice(o)).await;
    put(w.dir.path(), "c.yaml", &service("c"));
    let after = w.until("again", |o| has(o, &["a", "c"])).await;
    let (a, c) = ("shop/a".parse().unwrap(), "shop/c".parse().unwrap());
    assert!(after.exports[&c].0.created > before.exports[&c].0.created);
    assert_eq!(after.exports[&a].0.created, before.exports[&a].0.created);
}

#[tokio::test]
async fn a_start_without_the_folder_keeps_everything_and_its_age() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &service("a"));
    let name = "shop/a".parse().unwrap();
    let before = w.until("a", |o| has(o, &["a"])).await.exports[&name].0.created;
    let w = w.restarted(|dir| std::fs::rename(dir, dir.with_extension("away")).unwrap()).await;
    let own = w.now();
    assert!(has(&own, &["a"]), "known at the first look: {:?}", own.problems);
    assert_eq!(own.problems.iter().map(|p| p.code).collect::<Vec<_>>(), [2005]);
    assert!(own.hidden.all && own.exports[&name].0.created == before);
    // Again, and then the folder is back without the file.
    let mut w = w.restarted(|_| {}).await;
    assert!(has(&w.now(), &["a"]));
    std::fs::create_dir(w.dir.path()).unwrap();
    w.until("removed", |o| o.problems.is_empty() && has(o, &[])).await;
    std::fs::remove_dir_all(w.dir.path().with_extension("away")).unwrap();
}

#[tokio::test]
async fn a_start_with_a_broken_file_keeps_its_last_good_objects_and_their_age() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &service("a"));
    put(w.dir.path(), "b.yaml", &service("b"));
    put(w.dir.path(), "c.yaml", &service("c"));
    let before = w.until("all", |o| has(o, &["a", "b", "c"])).await;
    let w = w
        .restarted(|dir| {
            put(dir, "a.yaml", "kind: [");
            std::fs::remove_file(dir.join("c.yaml")).unwrap();
        })
        .await;
    let own = w.now();
    assert!(has(&own, &["a", "b"]), "{:?}", own.exports.keys());
    assert_eq!(
        own.problems.iter().map(|p| (p.code, p.object.as_str())).collect::<Vec<_>>(),
        [(2001, "a.yaml")]
    );
    let mut w = w.restarted(|dir| put(dir, "a.yaml", &service("a"))).await;
    let own = w.until("mended", |o| o.problems.is_empty()).await;
    let name = "shop/a".parse().unwrap();
    assert_eq!(own.exports[&name].0.created, before.exports[&name].0.created);
}

fn peer(id: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: hansa.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {{name: {id}}}\n\
         spec: {{trustDomain: {id}.td, gateways: ['h:1'], bundle: '{{}}', accept: {{{rules}}}}}\n"
    )
}

#[tokio::test]
async fn an_object_refused_now_keeps_its_last_good_version_until_it_goes() {
    let rules = "namespaces: [shop]";
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {name: a-1, namespace: shop, labels: {kubernetes.io/service-name: a}}\n\
                 addressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: [10.0.0.1]}]\n";
    let good = format!("{}{slice}{}", service("a"), peer("b", rules));
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &good);
    let before = w.until("all", |o| has(o, &["a"]) && o.peers.len() == 1).await;
    assert!(before.problems.is_empty(), "{:?}", before.problems);
    for (what, with) in [
        ("namespaces: [shop]", "namespaces: [Sho/p]"),
        ("accept: ", "acept: "),
        ("ClusterPeer", "ClusterPeeer"),
        ("v1alpha1", "v2"),
        ("hansa.dev", "hansa.de"),
        ("metadata: {name: b}", "metadata: {nam: b}"),
        ("'h:1'", "'h'"),
        ("service-name: a}", "service-nam: a}"),
        ("addressType: IPv4", "addressType: [4]"),
        ("port: 80}]}", "port: eighty}]}"),
    ] {
        assert!(good.contains(what), "{what}");
        put(w.dir.path(), "a.yaml", &good.replacen(what, with, 1));
        let own = w.until("refused", |o| !o.problems.is_empty()).await;
        assert_eq!(
            (&own.exports, &own.peers),
            (&before.exports, &before.peers),
            "{with}: {:?}",
            own.problems
        );
        // Also across a restart, and until it is mended.
        w = w.restarted(|_| {}).await;
        let own = w.now();
        assert_eq!(
            (&own.exports, &own.peers),
            (&before.exports, &before.peers),
            "{with}: {:?}",
            own.problems
        );
        assert!(!own.problems.is_empty());
        put(w.dir.path(), "a.yaml", &good);
        w.until("mended", |o| o.problems.is_empty()).await;
    }
    // What goes is gone, also beside something that is refused.
    put(w.dir.path(), "a.yaml", &good.replace("'h:1'", "'h'").replace(slice, ""));
    let own =
        w.until("no endpoints", |o| o.exports.values().all(|(_, local)| local.endpoints.is_empty())).await;
    assert_eq!(own.peers, before.peers);
    put(w.dir.path(), "a.yaml", &service("a"));
    w.until("no peer", |o| o.peers.is_empty() && o.problems.is_empty()).await;
}

#[tokio::test]
async fn what_cannot_be_read_may_hold_a_peer() {
    let mut w = Watched::new().await;
    put(w.dir.path(), "a.yaml", &service("a"));
    let own = w.until("a", |o| has(o, &["a"])).await;
    assert_eq!(own.hidden, hansa_controller::source::Hidden::default());
    put(w.dir.path(), "p.yaml", &peer("b", "").replace("'h:1'", "'h'"));
    let own = w.until("a peer never read", |o| !o.problems.is_empty()).await;
    let (b, c) = ("b".parse().unwrap(), "c".parse().unwrap());
    assert!(own.peers.is_empty() && own.hidden.hides(&b) && !own.hidden.hides(&c));
    put(w.dir.path(), "p.yaml", "kind: [");
    w.until("a file never read", |o| o.hidden.hides(&c)).await;
}

#[tokio::test]
async fn a_last_good_version_gives_way_to_a_valid_one_in_another_file() {
    let mut w = Watched::new().await;
    let rules = |own: &Own| own.peers.values().next().map(|peer| peer.accept.max_rows);
    put(w.dir.path(), "1.yaml", &peer("b", "maxRows: 11"));
    w.until("the first", |o| rules(o) == Some(11)).await;
    let refused = peer("b", "maxRows: 12").replace("'h:1'", "'h'");
    for (wrong, shown) in [(refused.as_str(), true), ("kind: [", false)] {
        put(w.dir.path(), "1.yaml", wrong);
        let own = w.until("the last good one", |o| !o.problems.is_empty()).await;
        assert_eq!(rules(&own), Some(11), "{:?}", own.problems);
        put(w.dir.path(), "2.yaml", &peer("b", "maxRows: 22"));
        let own = w.until("the valid one", |o| rules(o) == Some(22)).await;
        let [problem] = &own.problems[..] else { panic!("{:?}", own.problems) };
        assert_eq!(problem.message.ends_with("the one in another file counts"), shown, "{problem:?}");
        std::fs::remove_file(w.dir.path().join("2.yaml")).unwrap();
        w.until("the last good one again", |o| rules(o) == Some(11)).await;
        put(w.dir.path(), "1.yaml", &peer("b", "maxRows: 11"));
        w.until("mended", |o| o.problems.is_empty()).await;
    }
    // Of two valid ones the first counts, as ever.
    put(w.dir.path(), "2.yaml", &peer("b", "maxRows: 22"));
    let own = w.until("twice", |o| !o.problems.is_empty()).await;
    assert_eq!((rules(&own), own.problems[0].code), (Some(11), 2004), "{:?}", own.problems);
}
