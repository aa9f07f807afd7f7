//! GGUF files whose numbers and texts say something else, and files that are split in two.

use std::ops::Range;

use super::{bytes, random::Random};

const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// What tensors begin at a multiple of.
const ALIGNMENT: usize = 32;
/// How many elements of an array are places of their own.
const ELEMENTS: u64 = 2;

/// Where things are in a file.
#[derive(Default)]
struct Places {
    /// Numbers, and what they are.
    numbers: Vec<(Range<usize>, &'static str)>,
    texts: Vec<Range<usize>>,
    /// Metadata, whole pairs.
    pairs: Range<usize>,
    tensors: Vec<Tensor>,
    data: usize,
}

struct Tensor {
    entry: Range<usize>,
    /// From the start of the data.
    offset: usize,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    places: Places,
}

impl Reader<'_> {
    fn skip(&mut self, n: u64) -> Option<Range<usize>> {
        let end = self.at.checked_add(usize::try_from(n).ok()?).filter(|end| *end <= self.bytes.len())?;
        Some(std::mem::replace(&mut self.at, end)..end)
    }

    /// A number of the header, noted as a place.
    fn number(&mut self, size: u64, what: &'static str) -> Option<u64> {
        let place = self.skip(size)?;
        let mut whole = [0; 8];
        whole[..place.len()].copy_from_slice(&self.bytes[place.clone()]);
        self.places.numbers.push((place, what));
        Some(u64::from_le_bytes(whole))
    }

    fn text(&mut self) -> Option<()> {
        let len = self.number(8, "a length")?;
        let place = self.skip(len)?;
        self.places.texts.push(place);
        Some(())
    }

    fn value(&mut self, kind: u32) -> Option<()> {
        match kind {
            STRING => self.text(),
            ARRAY => {
                let kind = self.number(4, "a type of elements")? as u32;
                let len = self.number(8, "a number of elements")?;
                for i in 0..len {
                    let (numbers, texts) = (self.places.numbers.len(), self.places.texts.len());
                    self.value(kind)?;
                    if i >= ELEMENTS {
                        self.places.numbers.truncate(numbers);
                        self.places.texts.truncate(texts);
                    }
                }
                Some(())
            }
            _ => {
                let size = *[1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8].get(kind as usize)?;
                self.number(size, "a value").map(drop)
            }
        }
    }
}

fn read(bytes: &[u8]) -> Option<Places> {
    let mut r = Reader { bytes, at: 4, places: Places::default() };
    r.number(4, "the version")?;
    let tensors = r.number(8, "the number of tensors")?;
    let pairs = r.number(8, "the number of pairs")?;
    let start = r.at;
    for _ in 0..pairs {
        r.text()?;
        let kind = r.number(4, "a type")? as u32;
        r.value(kind)?;
    }
    r.places.pairs = start..r.at;
    for _ in 0..tensors {
        let start = r.at;
        r.text()?;
        for _ in 0..r.number(4, "a number of axes")? {
            r.number(8, "a size")?;
        }
        r.number(4, "a type of blocks")?;
        let offset = r.number(8, "an offset")? as usize;
        r.places.tensors.push(Tensor { entry: start..r.at, offset });
    }
    r.places.data = r.at.next_multiple_of(ALIGNMENT);
    Some(r.places)
}

/// Changes a number, a text or the data, and says how.
pub(super) fn mutate(file: &mut [u8], random: &mut Random) -> Option<String> {
    let places = read(file)?;
    Some(match random.below(8) {
        0 => format!("data: {}", bytes::fill(file.get_mut(places.data..)?, random)),
        1 => {
            let place = random.pick(&places.texts).clone();
            let (at, flip) = (place.start + random.below(place.len()), 1 << random.below(7));
            *file.get_mut(at)? ^= flip;
            format!("text {:?}", String::from_utf8_lossy(&file[place]))
        }
        2 => {
            let (a, b) = random.two(places.numbers.len());
            let (a, b) = (&places.numbers[a].0, &places.numbers[b].0);
            let (first, second) = (file[a.clone()].to_vec(), file[b.clone()].to_vec());
            copy(file, a, &second);
            copy(file, b, &first);
            format!("{a:?} and {b:?} swapped")
        }
        _ => {
            // Lengths are most of the numbers, and all alike.
            let rare: Vec<_> = places.numbers.iter().filter(|(_, what)| *what != "a length").collect();
            let (place, what) =
                if random.once_in(4) { random.pick(&places.numbers) } else { random.pick(&rare) };
            let mut old = [0; 8];
            old[..place.len()].copy_from_slice(&file[place.clone()]);
            let new = other_number(u64::from_le_bytes(old), random);
            copy(file, place, &new.to_le_bytes());
            format!("{what} at {place:?} = {new:#x}")
        }
    })
}

fn copy(file: &mut [u8], place: &Range<usize>, from: &[u8]) {
    file[place.clone()].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

fn other_number(old: u64, random: &mut Random) -> u64 {
    let float = |x: f32| u64::from(x.to_bits());
    // As small as numbers of types and axes are.
    let (small, bit) = (random.below(48) as u64, 1 << random.below(63));
    *random.pick(&[
        0,
        1,
        small,
        small,
        old.wrapping_add(1),
        old.wrapping_sub(1),
        old.wrapping_mul(2),
        old / 2,
        old.wrapping_neg(),
        old ^ bit,
        (1 << 31) - 1,
        1 << 31,
        1 << 32,
        1 << 60,
        1 << 63,
        u64::MAX,
        float(-1.0),
        float(f32::NAN),
        float(f32::INFINITY),
        float(1e30),
    ])
}

/// The model in two files, as llama.cpp splits them: half of the tensors each, all metadata in the first.
pub(super) fn split(file: &[u8]) -> Option<[Vec<u8>; 2]> {
    let places = read(file)?;
    let pairs = u64::from_le_bytes(file.get(16..24)?.try_into().ok()?);
    let half = places.tensors.len() / 2;
    let part = |number: u32, tensors: &[Tensor]| -> Option<Vec<u8>> {
        let kept = if number == 0 { pairs } else { 0 };
        let mut out = file[..8].to_vec();
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((kept + 3).to_le_bytes());
        if number == 0 {
            out.extend(&file[places.pairs.clone()]);
        }
        for (key, value) in
            [("split.no", number), ("split.count", 2), ("split.tensors.count", places.tensors.len() as u32)]
        {
            out.extend((key.len() as u64).to_le_bytes());
            out.extend(key.as_bytes());
            out.extend(U32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        let mut data = Vec::new();
        for tensor in tensors {
            let mut entry = file[tensor.entry.clone()].to_vec();
            let end = entry.len();
            entry.get_mut(end - 8..)?.copy_from_slice(&(data.len() as u64).to_le_bytes());
            out.extend(entry);
            // A tensor ends where the next one begins.
            let next = places.tensors.iter().map(|t| t.offset).filter(|o| *o > tensor.offset).min();
            let end = next.map_or(file.len(), |next| places.data + next);
            data.extend(file.get(places.data + tensor.offset..end)?);
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(data);
        Some(out)
    };
    let (first, second) = places.tensors.split_at(half);
    Some([part(0, first)?, part(1, second)?])
}
