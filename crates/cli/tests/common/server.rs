//! Real servers of the binary, for tests that run servers.
//! Part of `common`; has no tests itself.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use super::{Ran, command, ran};

/// A running server; killed when the test ends.
pub(crate) struct Server {
    /// Its process.
    pub(crate) child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// SIGKILL, and it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that nobody has now and that this process gives once: below those that the system gives to clients
/// (32768 and more), so that no connection takes one before its server does.
pub(crate) fn ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Where another test binary runs at the same time, it begins elsewhere.
    let first = u16::try_from(std::process::id() % 100).unwrap() * 100;
    let free = |port: &u16| {
        let address = (Ipv4Addr::LOCALHOST, *port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    let mut next =
        std::iter::repeat_with(|| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000);
    [(); N].map(|()| next.find(free).expect("never ends"))
}

/// The configuration of a controller in `dir`, as a file.
pub(crate) fn configure(dir: &Path, name: &str, ports: [u16; 3]) -> String {
    let file = dir.join(format!("{name}.yaml"));
    let home = dir.join(name);
    std::fs::create_dir_all(home.join("m")).unwrap();
    let [listen, admin, health] = ports.map(|port| format!("127.0.0.1:{port}"));
    let text = format!(
        "cluster: aws-eu\nlocality: aws/eu-central-1\nstateDir: {}\nsource: {{folder: {}}}\nlisten: ['{listen}']\n\
         admin: {{listen: '{admin}'}}\nhealth: {{listen: '{health}'}}\n",
        home.join("state").display(),
        home.join("m").display()
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// What servers log once they serve: a controller, a gateway, a DNS server.
const UP: [&str; 3] = ["\"serving\"", "\"virtual addresses held\"", "\"answering\""];

/// Starts a controller and waits for its line that says that it serves.
pub(crate) fn start(file: &str) -> Server {
    started(command(&["controller", "--config", file]))
}

/// The same with a command that runs a server.
pub(crate) fn started(mut command: Command) -> Server {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut from = BufReader::new(child.stderr.take().unwrap()).lines();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let server = Server { child, lines: lines.clone() };
    for line in from.by_ref().map_while(Result::ok) {
        let serving = UP.iter().any(|words| line.contains(words));
        lines.lock().unwrap().push(line);
        if serving {
            std::thread::spawn(move || {
                from.map_while(Result::ok).for_each(|l| lines.lock().unwrap().push(l))
            });
            return server;
        }
    }
    panic!("it ended: {}", server.log());
}

/// Asks the controller of `configure(dir, "one", …)`.
pub(crate) fn ask(dir: &Path, args: &[&str]) -> Ran {
    let socket = dir.join("one/state/controller.sock");
    ran(command(args).arg("--socket").arg(socket).output().unwrap())
}
