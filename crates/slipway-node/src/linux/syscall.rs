//! The system calls and device requests that rustix has no safe function for.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::ioctl::{Getter, IoctlOutput, NoArg, Opcode, Setter, ioctl};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::ffi::{CStr, c_void};
use std::time::{Duration, Instant};

/// `LOOP_CLR_FD` of linux/loop.h.
const LOOP_CLR_FD: Opcode = 0x4C01;
/// `LOOP_SET_STATUS64`.
const LOOP_SET_STATUS64: Opcode = 0x4C04;
/// `LOOP_GET_STATUS64`.
const LOOP_GET_STATUS64: Opcode = 0x4C05;
/// `LOOP_CONFIGURE`.
const LOOP_CONFIGURE: Opcode = 0x4C0A;
/// `LOOP_CTL_GET_FREE`.
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
/// `BLKROSET` of linux/fs.h.
const BLKROSET: Opcode = 0x125D;
/// `BLKROGET`.
const BLKROGET: Opcode = 0x125E;

/// The device admits no writes.
pub(super) const LO_FLAGS_READ_ONLY: u32 = 1;
/// The kernel clears the device when its last user closes it.
pub(super) const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// The kernel shows the partitions.
pub(super) const LO_FLAGS_PARTSCAN: u32 = 8;
/// The file is read past the page cache.
pub(super) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LoopInfo {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) rdevice: u64,
    pub(super) offset: u64,
    pub(super) sizelimit: u64,
    pub(super) number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    pub(super) flags: u32,
    pub(super) file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl LoopInfo {
    pub(super) fn new() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// A request whose answer is its return value.
struct Returned<const CODE: Opcode>;

// SAFETY: the requests that this is used for take no argument and return a number.
unsafe impl<const CODE: Opcode> rustix::ioctl::Ioctl for Returned<CODE> {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        CODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// The number of a loop device that is free now; it may be taken in the next moment.
pub(super) fn loop_free(control: impl AsFd) -> Result<i32, Errno> {
    // SAFETY: LOOP_CTL_GET_FREE touches no memory of this process.
    unsafe { ioctl(control, Returned::<LOOP_CTL_GET_FREE>) }
}

/// Makes the loop device one of `file`, in one step.
pub(super) fn loop_configure(
    device: impl AsFd,
    file: BorrowedFd<'_>,
    block_size: u32,
    info: &LoopInfo,
) -> Result<(), Errno> {
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let config = LoopConfig { fd, block_size, info: *info, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `LoopConfig` is.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

/// What a loop device is; `ENXIO` when it is free.
pub(super) fn loop_status(device: impl AsFd) -> Result<LoopInfo, Errno> {
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, for which every value is valid.
    unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) }
}

/// Changes what a loop device is.
pub(super) fn loop_status_set(device: impl AsFd, info: &LoopInfo) -> Result<(), Errno> {
    // SAFETY: LOOP_SET_STATUS64 reads one `struct loop_info64`.
    unsafe { ioctl(device, Setter::<LOOP_SET_STATUS64, LoopInfo>::new(*info)) }
}

/// Frees a loop device, or marks it to be freed with its last user.
pub(super) fn loop_clear(device: impl AsFd) -> Result<(), Errno> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    unsafe { ioctl(device, NoArg::<LOOP_CLR_FD>::new()) }
}

/// Whether a block device admits no writes.
pub(super) fn is_read_only(device: impl AsFd) -> Result<bool, Errno> {
    // SAFETY: BLKROGET writes one int.
    unsafe { ioctl(device, Getter::<BLKROGET, i32>::new()) }.map(|flag| flag != 0)
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NODEV: u64 = 4;
const AT_EMPTY_PATH: libc::c_long = 0x1000;
const AT_RECURSIVE: libc::c_long = 0x8000;

/// Makes a mount that is not attached yet read-only, with those below it if asked.
pub(crate) fn mount_read_only(tree: impl AsFd, recursive: bool) -> Result<(), Errno> {
    mount_attr_set(tree, MOUNT_ATTR_RDONLY, recursive)
}

/// Takes from the device nodes in a tree that is not attached yet what they stand for.
pub(crate) fn mount_no_devices(tree: impl AsFd) -> Result<(), Errno> {
    mount_attr_set(tree, MOUNT_ATTR_NODEV, true)
}

fn mount_attr_set(tree: impl AsFd, attr_set: u64, recursive: bool) -> Result<(), Errno> {
    let attr = MountAttr { attr_set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string that ends with NUL, and the attributes live until the call returns; their size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::c_long::from(tree.as_fd().as_raw_fd()),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(errno_last()) }
}

fn errno_last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Groups below may have programs of their own; all of them must agree.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is not given as zero.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct ProgramAttach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Gives the kernel a program that decides about devices.
pub(crate) fn device_program_load(code: &[u64]) -> Result<OwnedFd, Errno> {
    let license = c"Apache-2.0";
    let load = ProgramLoad {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: instructions and licence live until the call returns, and their number and the attributes' size are given.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<ProgramLoad>()) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(errno_last()),
    }
}

/// Puts a program on a control group of version 2; it stays there until the group goes.
pub(crate) fn device_program_attach(group: impl AsFd, program: impl AsFd) -> Result<(), Errno> {
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF);
    let (target, program) = (number(group.as_fd())?, number(program.as_fd())?);
    let attach = ProgramAttach { target, program, kind: BPF_CGROUP_DEVICE, flags: BPF_F_ALLOW_MULTI };
    // SAFETY: the attributes live until the call returns; their size is given.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<ProgramAttach>()) };
    if done == 0 { Ok(()) } else { Err(errno_last()) }
}

/// Unmounts in a process of its own, which is killed after `limit`: the kernel then stops to wait for a server that is gone. In a thread of
/// ours it would wait on, since only a whole process can be killed.
pub(super) fn unmount_apart(at: &CStr, flags: UnmountFlags, limit: Duration) -> Result<(), Errno> {
    let clone = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
    // SAFETY: this is a fork, so the child has its own memory, with the one thread that called. It makes nothing but two system calls, which
    // need no lock that another thread may have held, and shares the descriptors so that it keeps none open.
    let pid = unsafe { libc::syscall(libc::SYS_clone, clone, 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: the path ends with NUL and lives in this process' memory; the second call does not come back.
        unsafe {
            let done = libc::syscall(libc::SYS_umount2, at.as_ptr(), flags.bits());
            let code = if done == 0 { 0 } else { *libc::__errno_location() };
            libc::syscall(libc::SYS_exit_group, code);
        }
        std::process::abort();
    }
    let last = || Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN);
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .filter(|pid| pid.as_raw_nonzero().get() > 0)
        .ok_or_else(last)?;
    let until = Instant::now() + limit;
    let mut options = WaitOptions::NOHANG;
    loop {
        match waitpid(Some(pid), options) {
            Ok(Some((_, status))) => {
                return match status.exit_status() {
                    Some(0) => Ok(()),
                    Some(code) => Err(Errno::from_raw_os_error(code)),
                    // Killed while it waited, after the mount had gone from its place.
                    None => Err(Errno::TIMEDOUT),
                };
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                kill_process(pid, Signal::KILL)?;
                options = WaitOptions::empty();
            }
        }
    }
}

/// Adds a netlink socket to the hearers of a group, whose number may be larger than those that an address has bits for.
pub(super) fn netlink_join(socket: impl AsFd, group: u32) -> Result<(), Errno> {
    // SAFETY: the option reads one int, which lives until the call returns.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_ADD_MEMBERSHIP,
            (&raw const group).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(errno_last()) }
}

/// Lets no writes pass to a device.
pub(super) fn device_read_only(device: impl AsFd) -> Result<(), Errno> {
    // SAFETY: BLKROSET reads one C `int`, which the setter holds.
    unsafe { ioctl(device, Setter::<BLKROSET, i32>::new(1)) }
}

/// Gives the calling thread a copy of the mounts, which it may change alone.
pub(super) fn mounts_unshare() -> Result<(), Errno> {
    // SAFETY: only mounts and the working directory are taken apart, not the table of files, so every descriptor stays what it is.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
}

/// `KEY_SPEC_THREAD_KEYRING` of linux/keyctl.h.
const KEY_SPEC_THREAD_KEYRING: i32 = -1;
/// `KEYCTL_REVOKE`.
const KEYCTL_REVOKE: i32 = 3;
/// `KEYCTL_UNLINK`.
const KEYCTL_UNLINK: i32 = 9;

/// Puts a key in the keyring of the calling thread, which ends with the thread. Gives its number.
pub(super) fn key_add(kind: &CStr, name: &CStr, payload: &[u8]) -> Result<i32, Errno> {
    // SAFETY: both names end with NUL, the payload has the length that is given, and all live until the call returns.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            kind.as_ptr(),
            name.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            KEY_SPEC_THREAD_KEYRING,
        )
    };
    match i32::try_from(key) {
        Ok(key) if key > 0 => Ok(key),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Makes a key of the calling thread useless, and takes it out of its keyring.
pub(super) fn key_remove(key: i32) {
    // SAFETY: both operations take numbers only. A key that is gone already is as good.
    unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_REVOKE, key);
        libc::syscall(libc::SYS_keyctl, KEYCTL_UNLINK, key, KEY_SPEC_THREAD_KEYRING);
    }
}
