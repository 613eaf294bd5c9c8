//! Which devices a container may open: the harmless ones that every system has, whatever nodes its image brings or it makes. By a program on
//! its control group in version 2, by lists in version 1.

use super::cgroup::CgroupPlace;
use crate::linux::{device_program_attach, device_program_load};
use crate::refusal::DriverError;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;

/// Major and minor numbers of character devices, of which `None` is every one.
const OPEN: &[(u32, Option<u32>)] = &[
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts
];

/// Keeps the processes of a control group from every other device. False where this machine has nothing that could.
///
/// # Errors
/// What the kernel said.
pub(super) fn devices_guard(place: &CgroupPlace) -> Result<bool, DriverError> {
    if let Some(dir) = place.v1_dir("devices") {
        let rules = OPEN.iter().map(|(major, minor)| {
            let minor = minor.map_or("*".to_owned(), |minor| minor.to_string());
            format!("c {major}:{minor} rwm")
        });
        // A node may be made, as programs that unpack trees do; what it stands for cannot be opened.
        let nodes = ["c *:* m".to_owned(), "b *:* m".to_owned()];
        // The lists can only be changed while no group is below, as after an earlier run.
        place.inner_remove()?;
        write(dir, "devices.deny", "a")?;
        rules.chain(nodes).try_for_each(|rule| write(dir, "devices.allow", &rule))?;
        return Ok(true);
    }
    let Some(dir) = &place.v2 else { return Ok(false) };
    let refused = |errno| DriverError::system("device_program", errno, dir.display().to_string());
    let program = match device_program_load(&program()) {
        Ok(program) => program,
        // A kernel without such programs.
        Err(Errno::NOSYS | Errno::INVAL) => return Ok(false),
        Err(errno) => return Err(refused(errno)),
    };
    let group = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match device_program_attach(&group.map_err(refused)?, &program) {
        Ok(()) => Ok(true),
        Err(Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(errno) => Err(refused(errno)),
    }
}

fn write(dir: &Path, file: &str, rule: &str) -> Result<(), DriverError> {
    let path = dir.join(file);
    std::fs::write(&path, rule).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        DriverError::system("cgroup", errno, format!("{rule} to {}", path.display()))
    })
}

/// One instruction of the kernel's virtual machine, as linux/bpf.h has it.
const fn op(code: u8, dst: u8, src: u8, offset: i16, number: i32) -> u64 {
    code as u64 | (dst as u64) << 8 | (src as u64) << 12 | (offset as u16 as u64) << 16 | (number as u32 as u64) << 32
}

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const AND_NUMBER: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_NOT: u8 = 0x55;
const EXIT: u8 = 0x95;
/// `BPF_DEVCG_DEV_CHAR` and `BPF_DEVCG_ACC_MKNOD`.
const CHARACTER: i32 = 2;
const MAKE_NODE: i32 = 1;

/// The program: register 1 points at `struct bpf_cgroup_dev_ctx` {access << 16 | type, major, minor}; it answers in register 0.
fn program() -> Vec<u64> {
    let mut code = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND_NUMBER, 3, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 2, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
        op(MOVE_NUMBER, 0, 0, 0, 1),
        // Making a node and nothing else.
        op(JUMP_IF_NOT, 2, 0, 1, MAKE_NODE),
        op(EXIT, 0, 0, 0, 0),
    ];
    let lists = OPEN.iter().map(|(_, minor)| if minor.is_some() { 3 } else { 2 }).sum::<i16>();
    code.push(op(JUMP_IF_NOT, 3, 0, lists, CHARACTER));
    for (major, minor) in OPEN {
        match minor {
            Some(minor) => code.extend([
                op(JUMP_IF_NOT, 4, 0, 2, *major as i32),
                op(JUMP_IF_NOT, 5, 0, 1, *minor as i32),
                op(EXIT, 0, 0, 0, 0),
            ]),
            None => code.extend([op(JUMP_IF_NOT, 4, 0, 1, *major as i32), op(EXIT, 0, 0, 0, 0)]),
        }
    }
    code.extend([op(MOVE_NUMBER, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn run(access: u32, kind: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 6];
        let code = program();
        let mut at = 0_usize;
        loop {
            let word = code[at];
            let (dst, src) = ((word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, number) = ((word >> 16) as i16, (word >> 32) as u32 as u64);
            at += 1;
            match word as u8 {
                LOAD_WORD => registers[dst] = u64::from(context[offset as usize / 4]),
                MOVE_REGISTER => registers[dst] = registers[src],
                MOVE_NUMBER => registers[dst] = number,
                AND_NUMBER => registers[dst] &= number,
                SHIFT_RIGHT => registers[dst] >>= number,
                JUMP_IF_NOT if registers[dst] != number => at += offset as usize,
                JUMP_IF_NOT => {}
                EXIT => return registers[0],
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn only_the_devices_of_every_system_are_open() {
        let (mknod, read, write, block, character) = (1, 2, 4, 1, 2);
        for (access, kind, major, minor, expected) in [
            (read | write, character, 1, 3, 1),
            (read, character, 1, 9, 1),
            (read | write, character, 5, 2, 1),
            (read | write, character, 136, 77, 1),
            (read, character, 1, 1, 0),   // mem
            (write, character, 1, 11, 0), // kmsg
            (read, block, 1, 3, 0),
            (read | write, block, 8, 0, 0),
            (read, character, 10, 229, 0),
            (mknod, block, 8, 0, 1),
            (mknod | read, block, 8, 0, 0),
        ] {
            assert_eq!(run(access, kind, major, minor), expected, "{access} {kind} {major}:{minor}");
        }
    }
}
