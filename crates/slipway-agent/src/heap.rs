//! How the C library's allocator keeps memory that was freed; there is no safe way to tell it.
#![allow(unsafe_code)]

/// Bytes from which on an allocation is a mapping of its own, which the kernel gets back as soon as it is freed. Left alone, glibc raises
/// this bound to the largest block that was ever freed, up to 32 MiB, and from then on keeps blocks of that size in one arena for each
/// thread. What a flash needs often is smaller or is used again, so this costs nothing (`docs/benchmarks.md`).
#[cfg(target_env = "gnu")]
const MAPPED_FROM: i32 = 512 << 10;

/// Gives large blocks back to the kernel for as long as this process lives.
pub(crate) fn large_blocks_return() {
    // SAFETY: `mallopt` takes two numbers and may be called at any time. Where it refuses, memory is kept as before.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}
