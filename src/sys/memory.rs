//! Giving memory back.

use nix::libc;

/// Returns what the past needed and the present does not: free heap, and the stack below the
/// current frame.
#[expect(unsafe_code, reason = "madvise on this process's own stack")]
pub fn give_back() {
    // SAFETY: no pointer; glibc's own bookkeeping of its own heap.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    /// Left alone below this frame: the red zone, signal frames, and this function's calls.
    const NEAR: usize = 4 << 10;
    /// How deep a launch may have been.
    const FAR: usize = 512 << 10;
    let page = rustix::param::page_size();
    let here = std::ptr::from_ref(&page) as usize;
    let end = (here - NEAR) & !(page - 1);
    let start = (here - FAR) & !(page - 1);
    // Not the whole range may be mapped: the stack only grows where it was used. Page by page from
    // above, until the kernel says that there is nothing.
    let mut at = end;
    while at > start {
        at -= page;
        // SAFETY: this thread's own stack, below every live frame; its content is dead, and reads
        // as zero when the stack grows there again.
        if unsafe { libc::madvise(at as *mut libc::c_void, page, libc::MADV_DONTNEED) } != 0 {
            break;
        }
    }
}

/// Lets go of the pages of the program itself. They stay in the page cache; those that are needed
/// again come back with a minor fault each. What only ran at the beginning is not held any more.
pub fn forget_code() {
    let Ok(maps) = procfs::process::Process::myself().and_then(|own| own.maps()) else { return };
    let Ok(exe) = std::fs::metadata("/proc/self/exe") else { return };
    for map in maps.iter().filter(|map| map.inode == std::os::unix::fs::MetadataExt::ino(&exe)) {
        use procfs::process::MMPermissions as P;
        // Code, and the constants in front of it. What was relocated and then sealed is read-only
        // too, but has pages of its own; it never lies at the beginning of the file.
        let unwritten = map.perms.contains(P::EXECUTE) || map.offset == 0;
        if unwritten && !map.perms.contains(P::WRITE) {
            drop_clean(map.address.0, map.address.1);
        }
    }
}

#[expect(unsafe_code, reason = "madvise on this process's own code")]
fn drop_clean(start: u64, end: u64) {
    // `as`: addresses of this process fit its pointers.
    let (start, length) = (start as usize as *mut libc::c_void, (end - start) as usize);
    // SAFETY: a private mapping of a file that never was writable has no page of its own: dropping one
    // loses nothing, the next use maps the same page of the file again.
    unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
}
