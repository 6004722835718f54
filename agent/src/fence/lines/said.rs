//! What stands on devices and what does not, in words.

use bailiwick_attestation::proto::v1::fence_state::Line;

use super::{Lines, PROGRAMS, Role, hook, stand::Way};
use crate::config::Devices;

impl Lines {
    /// As the kernel has it now, with what is amiss.
    pub(in crate::fence) fn read_back(&mut self, faults: &mut Vec<String>) -> Vec<Line> {
        let mut lines = Vec::new();
        for judge in &self.judges {
            for ((role, index), standing) in &self.standing {
                if *role != judge.role {
                    continue;
                }
                let name = format!("{} of {}", judge.hook, standing.device.name);
                let found = match judge.find(&standing.way, *index, &mut self.netlink) {
                    Ok(found) => found,
                    Err(err) => {
                        faults.push(format!("{:#}", anyhow::Error::from(err)));
                        continue;
                    }
                };
                if found.program == 0 {
                    faults.push(format!("{name} is detached"));
                    continue;
                }
                if !found.ahead.is_empty() {
                    faults.push(format!("{name} is not first"));
                }
                let ours = found.program == judge.program.id;
                if !ours {
                    faults.push(format!("{name} runs program {}, not ours", found.program));
                }
                let owner = self.owners.get(index).filter(|_| *role == Role::Port);
                lines.push(Line {
                    hook: judge.hook.to_owned(),
                    device: standing.device.name.clone(),
                    ifindex: *index,
                    way: match standing.way {
                        Way::Tcx { .. } => "tcx",
                        Way::Clsact => "clsact",
                    }
                    .to_owned(),
                    link_id: found.link,
                    program_id: found.program,
                    program_tag: match ours {
                        true => judge.program.tag.to_vec(),
                        false => Vec::new(),
                    },
                    position: u32::try_from(found.ahead.len()).unwrap_or(u32::MAX),
                    revision: found.revision,
                    subject: owner.copied(),
                });
            }
        }
        lines
    }
}

/// Hooks of the fence that stand nowhere here, and why. One is said to stand where it is attached
/// to something, never because it could be.
pub(in crate::fence) fn absent(lines: Option<&Lines>, standing: &[Line]) -> Vec<String> {
    let why = |(role, ..): &(Role, &str, &str, u8)| {
        let name = hook(*role);
        let devices = lines.map(|lines| match role {
            Role::Uplink => &lines.uplinks,
            Role::Port => &lines.ports,
        });
        let why = match devices {
            _ if standing.iter().any(|line| line.hook == name) => return None,
            Some(Devices::Auto) => "no device was found for it",
            Some(Devices::Named(names)) if !names.is_empty() => "none of its devices is there",
            _ => "no device is configured",
        };
        Some(format!("{name}: {why}"))
    };
    let lsm = "lsm: this build has no programs for it".to_owned();
    PROGRAMS.iter().filter_map(why).chain([lsm]).collect()
}
