//! Numbers for people.

/// A number with its thousands told: 134.5 M.
pub(crate) fn count(n: u64) -> String {
    scaled(n, ["", " K", " M", " B"])
}

/// Bytes: 91.7 MB.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes, [" B", " KB", " MB", " GB"])
}

fn scaled(n: u64, units: [&str; 4]) -> String {
    let power = [1_000, 1_000_000, 1_000_000_000].iter().filter(|unit| n >= **unit).count();
    if power == 0 {
        format!("{n}{}", units[0])
    } else {
        format!("{:.1}{}", n as f64 / 1e3_f64.powi(power as i32), units[power])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (n, wanted) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (91_700_000, "91.7 MB"), (5_000_000_000, "5.0 GB")]
        {
            assert_eq!(size(n), wanted);
        }
        assert_eq!(count(134_515_008), "134.5 M");
    }
}
