//! Bytes of any file.

use super::random::Random;

/// Changes a few bytes, most often near the beginning, or the length; says how.
pub(super) fn mutate(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let len = bytes.len();
    match random.below(8) {
        0 => {
            bytes.truncate(random.below(len));
            format!("cut to {} bytes", bytes.len())
        }
        1 => {
            let more = 1 + random.below(4096);
            bytes.extend((0..more).map(|i| i as u8));
            format!("{more} bytes longer")
        }
        2 => {
            let (at, n) = (random.below(len), 1 + random.below(64));
            bytes.drain(at..len.min(at + n));
            format!("{n} bytes less at {at}")
        }
        _ => {
            let span = *random.pick(&[16, 256, 4096, len]);
            let n = 1 + random.below(4);
            let mut places = Vec::new();
            for _ in 0..n {
                let at = random.below(span.min(len));
                let flip = 1 << random.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= flip;
                    places.push(at);
                }
            }
            format!("bits of bytes {places:?}")
        }
    }
}

/// Gives values other values: zeros, no numbers, the largest, any.
pub(super) fn fill(bytes: &mut [u8], random: &mut Random) -> String {
    let patterns: [(&str, &[u8]); 6] = [
        ("zeros", &[0]),
        ("ones", &[0xff]),
        ("the largest float32", &[0xff, 0xff, 0x7f, 0x7f]),
        ("infinity in bfloat16", &[0x80, 0x7f]),
        ("infinity in float16", &[0x00, 0x7c]),
        ("the highest bit", &[0x80]),
    ];
    let (start, end) = if random.once_in(2) { (0, bytes.len()) } else { random.two(bytes.len()) };
    let place = start.min(end)..start.max(end);
    if random.once_in(4) {
        bytes[place.clone()].iter_mut().for_each(|byte| *byte = random.number() as u8);
        return format!("any bytes at {place:?}");
    }
    let (name, pattern) = random.pick(&patterns);
    bytes[place.clone()].iter_mut().zip(pattern.iter().cycle()).for_each(|(byte, new)| *byte = *new);
    format!("{name} at {place:?}")
}
