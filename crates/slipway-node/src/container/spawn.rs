//! The calls by which a shim, which has one thread, makes an init in new namespaces; and a signal that has no name.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::ffi::CString;

/// Who goes on after a fork.
pub(super) enum Forked {
    /// The new process.
    Child,
    /// The one that made it.
    Parent(Pid),
}

/// Splits the process in two.
pub(super) fn process_fork() -> Result<Forked, Errno> {
    // SAFETY: the shim has a single thread, so the child may do all that its parent may.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).map(Forked::Parent).ok_or(Errno::AGAIN),
    }
}

/// Closes what was inherited beside the three standard streams, such as a lock that whoever started the service holds.
pub(crate) fn inherited_close() {
    // SAFETY: called before the process opens anything of its own, so nothing in it refers to these descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Leaves the namespaces of the parent; a new pid namespace is that of the next child.
pub(super) fn namespaces_leave(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: the descriptor table is not among the flags, and the process has a single thread.
    unsafe { unshare_unsafe(flags.difference(UnshareFlags::FILES)) }
}

/// `SIGRTMIN+3`: by systemd's container interface, the system shuts down.
pub(super) fn halt_signal() -> Signal {
    // SAFETY: the C library keeps the numbers below SIGRTMIN() for itself; this one is free for programs.
    unsafe { Signal::from_raw_unchecked(libc::SIGRTMIN() + 3) }
}

/// Becomes another program. Comes back only with the reason why not; a file that is no program is not handed to a shell.
pub(super) fn program_become(argv: &[CString], env: &[CString]) -> Errno {
    let pointers =
        |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with a null pointer, and what they point to lives until the call returns. The first is never empty here, and
    // an empty one would only be refused.
    unsafe { libc::execve(argv[0], argv.as_ptr(), env.as_ptr()) };
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOEXEC)
}
