//! What the supervisor's program file is: static and not position-independent, so that no loader
//! runs before `main` and no relocation dirties a page that all shims share.

use std::fs;

/// `e_type` of a program at a fixed address.
const ET_EXEC: u16 = 2;
/// `p_type` of the segment that names the dynamic loader.
const PT_INTERP: u32 = 3;

#[test]
fn the_shim_is_static_and_not_position_independent() {
    if std::env::var_os("RUSTFLAGS").is_some() || std::env::var_os("CARGO_ENCODED_RUSTFLAGS").is_some() {
        eprintln!("skipped: a RUSTFLAGS variable replaces the flags of .cargo/config.toml");
        return;
    }
    let elf = fs::read(env!("CARGO_BIN_EXE_podrun-shim")).unwrap();
    assert_eq!(elf[..6], *b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let u16_at = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(elf[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    assert_eq!(u16_at(16), ET_EXEC, "it is position-independent");
    let (table, size, count) = (u64_at(32), u16_at(54), u16_at(56));
    let kinds = (0..count).map(|i| u32_at(usize::try_from(table).unwrap() + usize::from(i * size)));
    assert!(!kinds.into_iter().any(|kind| kind == PT_INTERP), "it needs a dynamic loader");
}
