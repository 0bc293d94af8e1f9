//! Which member a packet on loopback comes from: the owner of its source port, by `/proc`.
//! On loopback every sender may have the same address, so the address says nothing.

use std::path::Path;

use super::Transport;
use crate::spec::MemberId;
use crate::state::DemoState;

/// The member whose gateway owns this local port; `None` if no gateway of this lab does.
pub(crate) fn of(dir: &Path, transport: Transport, port: u16) -> Option<MemberId> {
    let state = DemoState::load(dir).ok()??;
    let inodes = inodes(transport, port);
    state.members.iter().find_map(|(id, member)| {
        let gateways = member.processes.iter().filter(|(name, _)| name.starts_with("gateway-"));
        let mut pids = gateways.filter_map(|(_, process)| process.proc).map(|proc| proc.pid);
        pids.any(|pid| owns(pid, &inodes)).then(|| MemberId::parse(id).ok())?
    })
}

/// Socket inodes with that local port.
fn inodes(transport: Transport, port: u16) -> Vec<String> {
    let files = match transport {
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
    };
    let wanted = format!(":{port:04X}");
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let (Some(local), Some(inode)) = (fields.get(1), fields.get(9))
                && local.ends_with(&wanted)
            {
                found.push(format!("socket:[{inode}]"));
            }
        }
    }
    found
}

fn owns(pid: i32, inodes: &[String]) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        std::fs::read_link(entry.path())
            .is_ok_and(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
    })
}
