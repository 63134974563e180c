//! Giving memory back.

use nix::libc;

/// Returns what the past needed and the present does not: code, free heap, and the stack below the
/// current frame.
#[expect(unsafe_code, reason = "madvise on this process's own stack")]
pub fn give_back() {
    forget_code();
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
/// Allocates nothing, and asks the kernel for no list of mappings.
#[expect(unsafe_code, reason = "dl_iterate_phdr has no wrapper, and takes a C function")]
pub fn forget_code() {
    // SAFETY: `forget_segments` is of the type that the call wants, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(forget_segments), std::ptr::null_mut()) };
}

/// Called for the program itself first; what is not 0 ends the walk there.
#[expect(unsafe_code, reason = "reads what libc hands over, and madvise on this process's own code")]
unsafe extern "C" fn forget_segments(
    program: *mut libc::dl_phdr_info,
    _size: usize,
    _nothing: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: libc hands over a live structure, whose headers are an array of that length which is a
    // part of the program.
    let (base, headers) = unsafe {
        let program = &*program;
        (program.dlpi_addr, std::slice::from_raw_parts(program.dlpi_phdr, program.dlpi_phnum.into()))
    };
    let page = rustix::param::page_size() as u64;
    // What was relocated and then sealed lies in a segment that is writable by its header.
    let unwritten =
        |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    for header in headers.iter().filter(unwritten) {
        let start = (base + header.p_vaddr).next_multiple_of(page);
        let end = (base + header.p_vaddr + header.p_memsz) / page * page;
        // `as`: addresses of this process fit its pointers.
        let (start, length) = (start as usize as *mut libc::c_void, end.saturating_sub(start) as usize);
        // SAFETY: a private mapping of a file that never was writable has no page of its own: dropping one
        // loses nothing, the next use maps the same page of the file again.
        unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    }
    1
}
