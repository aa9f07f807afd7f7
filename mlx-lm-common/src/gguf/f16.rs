//! Exact arithmetic on the bits of float16.

/// Bits of `value`·2^`power`, or nothing where float16 ends. Exact: a shift never loses a bit upwards.
///
/// `power` is at most 7, `value` finite.
pub(super) fn times_power_of_two(value: u16, power: u16) -> Option<u16> {
    let (sign, exponent, fraction) = (value & 0x8000, value >> 10 & 0x1f, value & 0x3ff);
    if exponent > 0 {
        return (exponent + power < 31).then(|| value + (power << 10));
    }
    // Below 2^-14 the value is its fraction, in units of 2^-24.
    let scaled = u32::from(fraction) << power;
    if scaled < 0x400 {
        return Some(sign | scaled as u16);
    }
    let shift = scaled.ilog2() - 10;
    Some(sign | ((shift + 1) << 10 | scaled >> shift & 0x3ff) as u16)
}

/// Whether bits are neither an infinity nor a NaN.
pub(super) fn is_finite(value: u16) -> bool {
    value & 0x7c00 != 0x7c00
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn scaling_is_exact_for_every_value() {
        for bits in (0..=u16::MAX).filter(|&bits| is_finite(bits)) {
            for power in 0..=7 {
                let wanted = f16::from_bits(bits).to_f64() * f64::from(1 << power);
                match times_power_of_two(bits, power) {
                    Some(scaled) => {
                        assert_eq!(f16::from_bits(scaled).to_f64(), wanted);
                        assert_eq!(scaled >> 15, bits >> 15);
                    }
                    None => assert!(wanted.abs() >= 65536.0, "{bits:04x} {power}"),
                }
            }
        }
    }
}
