//! The only unsafe code of podrun: system calls that neither rustix nor nix wraps.
