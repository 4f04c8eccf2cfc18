//! JPEGs of every coding that decoders read in a way of its own, damaged at one to three places: what is not refused
//! has the pixels that it had. `PASSER_DAMAGED_JPEGS=1000000` sets how many are tried.

use super::*;

/// Written by `scripts/curate/embedded_metadata.py small`.
const SMALL: [(&str, &[u8]); 10] = [
    (
        "gray",
        include_bytes!("../../../fixtures/embedded/small/gray.jpg"),
    ),
    (
        "plain",
        include_bytes!("../../../fixtures/embedded/small/plain.jpg"),
    ),
    (
        "halved",
        include_bytes!("../../../fixtures/embedded/small/halved.jpg"),
    ),
    (
        "sideways",
        include_bytes!("../../../fixtures/embedded/small/sideways.jpg"),
    ),
    (
        "restarts",
        include_bytes!("../../../fixtures/embedded/small/restarts.jpg"),
    ),
    (
        "progressive",
        include_bytes!("../../../fixtures/embedded/small/progressive.jpg"),
    ),
    (
        "progressive restarts",
        include_bytes!("../../../fixtures/embedded/small/progressive_restarts.jpg"),
    ),
    (
        "progressive gray",
        include_bytes!("../../../fixtures/embedded/small/progressive_gray.jpg"),
    ),
    (
        "inks",
        include_bytes!("../../../fixtures/embedded/small/inks.jpg"),
    ),
    (
        "progressive inks",
        include_bytes!("../../../fixtures/embedded/small/progressive_inks.jpg"),
    ),
];

/// Numbers that are a function of the seed (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A photo with one to three faults: bytes changed, lost, doubled or put in, marks more often than others.
fn damaged(seed: u64) -> (&'static str, Vec<u8>) {
    let mut draw = Draw(seed);
    let (name, file) = SMALL[draw.below(SMALL.len())];
    let mut file = file.to_vec();
    for _ in 0..1 + draw.below(3) {
        // Every second fault is at a mark, its length or the byte before it.
        let marks: Vec<usize> = (1..file.len() - 4).filter(|at| file[*at] == 0xFF).collect();
        let at = match draw.below(2) {
            0 => draw.below(file.len()),
            _ => marks[draw.below(marks.len())] - 1 + draw.below(5),
        };
        let value = match draw.below(4) {
            0 => [0xFF, 0x00, 0x01, 0x02][draw.below(4)],
            1 => 0xC0 + draw.below(64) as u8,
            _ => draw.below(256) as u8,
        };
        let end = (at + 1 + draw.below(6)).min(file.len());
        match draw.below(8) {
            0..=3 => file[at] = value,
            4 => file[at] ^= 1 << draw.below(8),
            5 => file.insert(at, value),
            6 => drop(file.drain(at..end)),
            _ => {
                let part = file[at..end].to_vec();
                drop(file.splice(at..at, part));
            }
        }
    }
    (name, file)
}

/// Seeds of photos whose pixels changed in earlier versions: nothing lies among or behind their pixels' data.
const FORMER_FAULTS: [u64; 2] = [3_286_304, 3_483_372];

/// What is wrong with a stripped file, if anything is.
fn fault(file: &[u8]) -> Option<&'static str> {
    let before = pixels(file);
    for level in [PRIVATE, FileMetadata::StripAll] {
        let Ok(stripped) = strip(file, level) else {
            continue;
        };
        if before.is_ok() && pixels(&stripped.file) != before {
            return Some("other pixels");
        }
        match strip(&stripped.file, level) {
            Err(_) => return Some("refused once it is stripped"),
            Ok(again) if !again.removed.is_empty() || *again.file != *stripped.file => {
                return Some("something was left");
            }
            Ok(_) => {}
        }
    }
    None
}

#[test]
fn damaged_jpegs_are_refused_or_have_the_pixels_that_they_had() {
    let count = std::env::var("PASSER_DAMAGED_JPEGS").map_or(4_000, |count| count.parse().unwrap());
    let from = std::env::var("PASSER_DAMAGED_FROM").map_or(0, |from| from.parse().unwrap());
    let (mut faults, mut decoded, mut stripped) = (Vec::new(), 0, 0);
    let seeds = (from..from + count).chain(FORMER_FAULTS);
    for seed in seeds {
        let (name, file) = damaged(seed);
        decoded += u64::from(pixels(&file).is_ok());
        stripped += u64::from(strip(&file, PRIVATE).is_ok());
        faults.extend(fault(&file).map(|fault| format!("{seed}, {name}: {fault}")));
    }
    assert!(
        faults.is_empty(),
        "{} of {count}: {:#?}",
        faults.len(),
        &faults[..faults.len().min(40)]
    );
    // The damage leaves enough to look at.
    assert!(
        decoded > count / 5 && stripped > count / 2,
        "{decoded} {stripped} of {count}"
    );
}

/// Each file without damage has its private parts removed and its credit left.
#[test]
fn each_coding_is_stripped() {
    for (name, file) in SMALL {
        assert!(holds(file, "SECRET"), "{name}");
        let stripped = strip(file, PRIVATE).unwrap();
        assert!(
            !holds(&stripped.file, "SECRET") && holds(&stripped.file, "CREDIT"),
            "{name}"
        );
        assert_eq!(
            names(stripped.removed),
            // What stands for their color profile is none.
            ["position", "comment", "thumbnail", "unreadable"],
            "{name}"
        );
        assert_eq!(fault(file), None, "{name}");
    }
}
