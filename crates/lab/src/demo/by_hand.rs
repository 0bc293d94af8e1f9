//! The commands to try by hand, as they work here: with the path of this program, the folder that was given,
//! and, without namespaces, with the member's own name server in each. Printed at the end of `hansa demo`.

use std::path::Path;

use crate::spec::{MemberId, Plan};

/// The commands, one to a line under a heading.
#[must_use]
pub(super) fn text(program: &Path, dir: Option<&Path>, plan: &Plan, is_up: bool) -> String {
    let hansa = quoted(program);
    let mut demo = format!("{hansa} demo");
    if let Some(dir) = dir {
        demo.push_str(&format!(" --dir {}", quoted(dir)));
    }
    let heading = if is_up { "try by hand:".to_owned() } else { format!("try by hand, after `{demo} up`:") };
    let mut lines = vec![heading];
    lines.extend(if plan.mode.has_namespaces() { clients(&demo) } else { on_loopback(plan) });
    lines.extend(
        ["status", "services", "explain checkout.shop", "check"]
            .map(|verb| format!("{demo} exec rack-1 -- {hansa} {verb}")),
    );
    lines.extend(
        [
            "status",
            "break gateway:rack-1/gateway-1",
            "heal gateway:rack-1/gateway-1",
            "break member:aws-eu",
            "heal member:aws-eu",
            "down",
        ]
        .map(|verb| format!("{demo} {verb}")),
    );
    lines.join("\n  ")
}

fn clients(demo: &str) -> Vec<String> {
    [
        "rack-1 -- curl -s http://checkout.shop.svc.clusterset.local",
        "rack-1 -- dig checkout.shop.svc.clusterset.local",
        "aws-eu -- redis-cli -h cart.shop.svc.clusterset.local incr visits",
    ]
    .map(|what| format!("{demo} exec {what}"))
    .to_vec()
}

/// Without namespaces a program keeps this machine's name server, so the member's is asked by hand. All members'
/// addresses are this machine's.
fn on_loopback(plan: &Plan) -> Vec<String> {
    let dig = |member: MemberId, name: &str| {
        let dns = plan.dns(member);
        format!("dig +short @{} -p {} {name}.svc.clusterset.local", dns.ip(), dns.port())
    };
    let (checkout, cart) = (dig(MemberId::Rack1, "checkout.shop"), dig(MemberId::AwsEu, "cart.shop"));
    vec![
        format!("curl -s \"http://$({checkout} | head -1):{}\"", plan.http_port()),
        checkout,
        format!("redis-cli -h \"$({cart} | head -1)\" incr visits"),
    ]
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::NetMode;

    #[test]
    fn every_command_can_be_copied() {
        let program = Path::new("/opt/my own/hansa");
        let dir = Path::new("/tmp/d");
        let plan = Plan::new(dir, NetMode::Netns, 0);
        let shown = text(program, Some(dir), &plan, true);
        let demo = "  '/opt/my own/hansa' demo --dir /tmp/d ";
        assert!(shown.starts_with("try by hand:\n"), "{shown}");
        assert!(shown.lines().skip(1).all(|line| line.starts_with(demo)), "{shown}");
        assert!(shown.contains("exec rack-1 -- '/opt/my own/hansa' explain checkout.shop\n"), "{shown}");
        assert!(text(Path::new("/b/hansa"), None, &plan, false).contains("after `/b/hansa demo up`:"));
    }

    #[test]
    fn on_loopback_the_members_name_server_is_asked() {
        let plan = Plan::new(Path::new("/tmp/d"), NetMode::Loopback, 0);
        let shown = text(Path::new("/b/hansa"), None, &plan, true);
        assert!(!shown.contains("exec aws-eu") && !shown.contains("http://checkout"), "{shown}");
        assert!(shown.contains(&format!("@{} -p ", plan.dns(MemberId::Rack1).ip())), "{shown}");
    }
}
