//! What the kernel and the C library's allocator are told of memory; there is no safe way to do so.
#![allow(unsafe_code)]

/// Bytes from which on an allocation is a mapping of its own, which the kernel gets back as soon as it is freed. Left alone, glibc raises
/// this bound to the largest block that was ever freed, up to 32 MiB, and from then on keeps blocks of that size. What a flash needs often
/// is smaller or is used again, so this costs nothing (`docs/benchmarks.md`).
#[cfg(target_env = "gnu")]
const MAPPED_FROM: i32 = 512 << 10;

/// Keeps little of what was freed, for as long as this process lives. All threads share so many `heaps`: left alone there are up to eight
/// for each core, and what one thread has freed is of no use to another. To be called before there are threads.
pub fn freed_memory_return(heaps: u16) {
    #[cfg(not(target_env = "gnu"))]
    let _ = heaps;
    // SAFETY: `mallopt` takes two numbers and may be called at any time. Where it refuses, memory is kept as before.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_ARENA_MAX, i32::from(heaps));
    }
}

/// Asks the kernel to put this memory into huge pages. It may have none, and then everything is as before.
pub(crate) fn huge_pages_ask(memory: &mut [u8]) {
    // SAFETY: the range is memory of ours, and the advice changes nothing of what is in it.
    unsafe {
        libc::madvise(memory.as_mut_ptr().cast(), memory.len(), libc::MADV_HUGEPAGE);
    }
}
