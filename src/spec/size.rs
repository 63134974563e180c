//! Sizes on the command line: `64m`, `1g`, or bytes.

/// The bytes that `text` means: a number with b, k, m, g or t (powers of 1024) behind it, in either
/// case, with `b` or `ib` after it or without; else what is wrong with it.
pub(super) fn parse(text: &str) -> Result<i64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let shift = match &lower[digits..] {
        _ if digits == 0 => return Err("is not a size"),
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("is not a size"),
    };
    let number = lower[..digits].parse::<i64>().ok();
    number.and_then(|number| number.checked_mul(1 << shift)).ok_or("is too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_and_perhaps_a_unit() {
        for (text, bytes) in
            [("0", 0), ("1", 1), ("7B", 7), ("64k", 64 << 10), ("2MiB", 2 << 20), ("1T", 1 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "k", "-1", "1x", "1.5g", "1 g", "99999999999999999999", "9999999999g"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
