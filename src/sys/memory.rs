//! Giving memory back.

use nix::libc;

use super::spawn::stack_pointer;

/// Returns what the past needed and the present does not: free heap, the stack below the caller's frame, and code,
/// and then waits as `wait` says. What is held meanwhile is the code of that, and as little else as can be: it
/// should be small, and not wander off to where other code is.
#[inline(always)]
pub fn give_back_and<R>(wait: impl FnOnce() -> R) -> R {
    trim();
    let code = code();
    for (start, length) in code.0 {
        forget(start, length);
    }
    wait()
}

#[expect(unsafe_code, reason = "madvise on this process's own stack")]
#[inline(never)]
fn trim() {
    // SAFETY: no pointer; glibc's own bookkeeping of its own heap.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    /// Left alone below this frame: the red zone, and this function's calls.
    const NEAR: usize = 1 << 10;
    /// How deep a launch may have been.
    const FAR: usize = 512 << 10;
    let page = rustix::param::page_size();
    // `as`: addresses of this process fit its pointers.
    let here = stack_pointer() as usize;
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

/// The segments of the program that are never written: where each begins, and its length.
#[derive(Default)]
struct Code([(usize, usize); 4]);

/// Where the program itself lies. Allocates nothing, and asks the kernel for no list of mappings.
#[expect(unsafe_code, reason = "dl_iterate_phdr has no wrapper, and takes a C function")]
#[inline(never)]
fn code() -> Code {
    let mut code = Code::default();
    // SAFETY: `note_segments` is of the type that the call wants, does not unwind, and gets what it casts to.
    unsafe { libc::dl_iterate_phdr(Some(note_segments), std::ptr::from_mut(&mut code).cast()) };
    code
}

/// Lets go of pages of the program. They stay in the page cache; those that are needed again come back with a
/// minor fault each. What only ran at the beginning is not held any more.
#[expect(unsafe_code, reason = "madvise on this process's own code")]
#[inline(always)]
fn forget(start: usize, length: usize) {
    // SAFETY: a private mapping of a file that never was writable has no page of its own: dropping one
    // loses nothing, the next use maps the same page of the file again.
    let _ = unsafe { rustix::mm::madvise(start as *mut _, length, rustix::mm::Advice::LinuxDontNeed) };
}

/// Called for the program itself first; what is not 0 ends the walk there.
#[expect(unsafe_code, reason = "reads what libc hands over")]
unsafe extern "C" fn note_segments(
    program: *mut libc::dl_phdr_info,
    _size: usize,
    code: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: libc hands over a live structure, whose headers are an array of that length which is a
    // part of the program, and what was given to dl_iterate_phdr.
    let (base, headers, code) = unsafe {
        let program = &*program;
        let headers = std::slice::from_raw_parts(program.dlpi_phdr, program.dlpi_phnum.into());
        (program.dlpi_addr, headers, &mut *code.cast::<Code>())
    };
    let page = rustix::param::page_size() as u64;
    // What was relocated and then sealed lies in a segment that is writable by its header.
    let unwritten =
        |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    for (header, place) in headers.iter().filter(unwritten).zip(&mut code.0) {
        let start = (base + header.p_vaddr).next_multiple_of(page);
        let end = (base + header.p_vaddr + header.p_memsz) / page * page;
        // `as`: addresses of this process fit its pointers.
        *place = (start as usize, end.saturating_sub(start) as usize);
    }
    1
}
