//! What an init may do: its user, its capabilities, and the system calls that are kept from it.

use super::spec::Spec;
use crate::refusal::DriverError;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule};
use std::collections::BTreeMap;

/// What a container has unless it asks for more: what programs of a distribution need within their own tree, and nothing that reaches the node.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// What systemd needs beside them to run a system in its own namespaces.
const SYSTEMD: &[&str] = &["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SYS_RESOURCE", "CAP_SYS_NICE"];

/// System calls that change the node, whatever capability a container was given: they answer EPERM.
const KEPT: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_userfaultfd,
];

/// The user and the group of an init.
pub(super) struct Person {
    uid: u32,
    gid: u32,
}

/// Finds whom a spec names, in the root that is already the process' own.
pub(super) fn person(spec: &Spec) -> Result<Option<Person>, DriverError> {
    if spec.user.is_empty() {
        return Ok(None);
    }
    let unknown = || DriverError::request("user", format!("the image has no user '{}'", spec.user.escape_debug()));
    let (name, group) =
        spec.user.split_once(':').map_or((spec.user.as_str(), None), |(user, group)| (user, Some(group)));
    let group = group.map(|group| group.parse::<u32>().map_err(|_| unknown())).transpose()?;
    if let Ok(uid) = name.parse() {
        return Ok(Some(Person { uid, gid: group.unwrap_or(0) }));
    }
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields =
        text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name));
    let fields = fields.ok_or_else(unknown)?;
    let number = |n: usize| fields.get(n).and_then(|field| field.parse::<u32>().ok()).ok_or_else(unknown);
    Ok(Some(Person { uid: number(2)?, gid: group.map_or_else(|| number(3), Ok)? }))
}

/// Takes from the process what the spec does not give it. The last thing before the init.
pub(super) fn confine(spec: &Spec, person: Option<&Person>) -> Result<(), DriverError> {
    let failed = |step: &str, errno: Errno| DriverError::system(step, errno, "the init");
    let kept = if spec.privileged { CapabilitySet::all() } else { capabilities(spec)? };
    if !spec.privileged {
        for capability in CapabilitySet::all().iter().filter(|capability| !kept.contains(*capability)) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // This kernel does not know it.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(failed("bounding_set", errno)),
            }
        }
    }
    if let Some(person) = person {
        rustix::thread::set_thread_groups(&[]).map_err(|errno| failed("setgroups", errno))?;
        let gid = Gid::from_raw(person.gid);
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|errno| failed("setgid", errno))?;
        let uid = Uid::from_raw(person.uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|errno| failed("setuid", errno))?;
    }
    if spec.privileged {
        return Ok(());
    }
    if person.is_none_or(|person| person.uid == 0) {
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).map_err(|errno| failed("capset", errno))?;
    }
    // Without it, only a process with CAP_SYS_ADMIN may have a filter; with it, no set-user-ID program gives more than the init had.
    rustix::thread::set_no_new_privs(true).map_err(|errno| failed("no_new_privs", errno))?;
    filter_apply().map_err(|why| DriverError::other("seccomp", why))
}

fn capabilities(spec: &Spec) -> Result<CapabilitySet, DriverError> {
    let mut kept = CapabilitySet::empty();
    let systemd = if spec.systemd { SYSTEMD } else { &[] };
    let asked = spec.capabilities.iter().map(String::as_str);
    for name in DEFAULT.iter().chain(systemd).copied().chain(asked) {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        let known = CapabilitySet::from_name(short);
        kept |=
            known.ok_or_else(|| DriverError::request("capabilities", format!("'{}' is none", name.escape_debug())))?;
    }
    Ok(kept)
}

/// Whether it could get at a device by making a node of it, or by mounting a file system without the flag that keeps nodes shut.
pub(super) fn reaches_devices(spec: &Spec) -> Result<bool, DriverError> {
    Ok(capabilities(spec)?.intersects(CapabilitySet::MKNOD | CapabilitySet::SYS_ADMIN))
}

fn filter_apply() -> Result<(), String> {
    let rules: BTreeMap<i64, Vec<SeccompRule>> = KEPT.iter().map(|call| (*call, Vec::new())).collect();
    let target = std::env::consts::ARCH.try_into().map_err(|why| format!("{why:?}"))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32), target)
        .map_err(|why| why.to_string())?;
    let program: BpfProgram = filter.try_into().map_err(|why: seccompiler::BackendError| why.to_string())?;
    seccompiler::apply_filter(&program).map_err(|why| why.to_string())
}
