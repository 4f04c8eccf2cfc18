//! Files that hold parts of two pictures, or less than one, against files that only look like them.

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use proptest::prelude::*;

use super::*;
use crate::decode::tests::jpeg_named;

fn decoded(file: &[u8]) -> Result<RgbImage, DecodeError> {
    crate::decode::decode(file, &DecodeLimits::DEFAULT)
}

/// A picture of 48 x 40 px with detail everywhere.
fn photo(seed: u32) -> Vec<u8> {
    let (width, height) = (48, 40);
    let pixel = |at: u32| (at / 3 % width * 5 + at / 3 / width * 3 + at.wrapping_mul(seed) % 31) as u8;
    let pixels: Vec<u8> = (0..width * height * 3).map(pixel).collect();
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, 80 + (seed % 10) as u8)
        .encode(&pixels, width, height, ExtendedColorType::Rgb8)
        .unwrap();
    file
}

/// Marks with their places, up to the end of the file.
fn marks(file: &[u8]) -> Vec<(u8, usize)> {
    let mut marks = vec![];
    let mut at = 2;
    while at + 1 < file.len() {
        match (file[at], file[at + 1]) {
            (0xFF, 0x00 | 0xD0..=0xD7 | 0xFF) | (0..=0xFE, _) => at += 1,
            (0xFF, mark) => {
                marks.push((mark, at));
                at += match mark {
                    0xD9 => 2,
                    _ => 2 + usize::from(u16::from_be_bytes([file[at + 2], file[at + 3]])),
                };
            }
        }
    }
    marks
}

fn place(file: &[u8], wanted: u8) -> usize {
    marks(file).iter().find(|(mark, _)| *mark == wanted).unwrap().1
}

/// Where the coded data of the first scan begin.
fn data_start(file: &[u8]) -> usize {
    let scan = place(file, 0xDA);
    scan + 2 + usize::from(file[scan + 3])
}

fn with_segment(file: &[u8], at: usize, mark: u8, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16 + 2).to_be_bytes();
    [&file[..at], &[0xFF, mark], &length, data, &file[at..]].concat()
}

#[test]
fn a_picture_cut_and_continued_with_another_is_refused_wherever_it_is_cut() {
    // A progressive picture may be cut where its scans so far are a whole picture, of less detail.
    let kinds: [(Vec<u8>, Vec<u8>); 2] = [
        (photo(3), photo(7)),
        (jpeg_named("jpeg restarts"), jpeg_named("jpeg 4:4:4")),
    ];
    for (one, other) in kinds {
        assert!(decoded(&one).is_ok() && decoded(&other).is_ok());
        // With all headers and its mark, without the mark, from its frame, its tables, its scan.
        let scan = place(&other, 0xDA);
        let tables = place(&other, 0xC4);
        let frame = marks(&other)
            .into_iter()
            .find(|(mark, _)| [0xC0, 0xC2].contains(mark));
        for start in [0, 2, place(&other, 0xDB), frame.unwrap().1, tables, scan] {
            for cut in data_start(&one)..one.len() - 2 {
                let joined = [&one[..cut], &other[start..]].concat();
                let found = decoded(&joined);
                assert!(
                    found.is_err(),
                    "cut at {cut} of {}, other from {start}",
                    one.len()
                );
            }
        }
    }
}

#[test]
fn what_a_file_of_two_pictures_lacks_or_repeats_is_named() {
    let (one, other) = (photo(3), photo(7));
    let cut = &one[..one.len() - 300];
    let message = |rest: &[u8]| decoded(&[cut, rest].concat()).unwrap_err().to_string();
    assert_eq!(
        message(&other),
        "broken JPEG: another picture begins inside its data"
    );
    assert_eq!(
        message(&other[place(&other, 0xC0)..]),
        "broken JPEG: another picture begins inside its data"
    );
    assert_eq!(
        message(&other[place(&other, 0xDA)..]),
        "broken JPEG: a scan codes again what was coded: its data are joined with another picture's"
    );
    assert_eq!(message(&[0xFF, 0xD9]), "the JPEG data end too early");
}

#[test]
fn a_picture_that_was_cut_and_closed_is_truncated_and_a_whole_one_is_not() {
    for file in [
        photo(3),
        jpeg_named("jpeg restarts"),
        jpeg_named("jpeg 4:2:0"),
        jpeg_named("jpeg gray"),
        jpeg_named("jpeg cmyk"),
    ] {
        let whole = decoded(&file).unwrap();
        for cut in data_start(&file)..file.len() - 2 {
            let closed = [&file[..cut], &[0xFF, 0xD9]].concat();
            match decoded(&closed) {
                // Its last byte, FF with a 0 behind it, may hold nothing but ones, of which the first are data.
                Ok(image) if cut + 4 >= file.len() => assert_eq!(image, whole),
                found => assert_eq!(found, Err(TRUNCATED), "cut at {cut} of {}", file.len()),
            }
        }
    }
}

#[test]
fn a_component_without_a_scan_is_missing_data() {
    let file = photo(3);
    let scan = place(&file, 0xDA);
    let header = [0xFF, 0xDA, 0, 8, 1, file[scan + 5], 0, 0, 63, 0];
    let one_component = [&file[..scan], &header, &file[data_start(&file)..]].concat();
    assert_eq!(decoded(&one_component), Err(TRUNCATED));
}

#[test]
fn what_cameras_and_programs_write_beside_a_picture_changes_nothing() {
    for file in [
        "jpeg 4:4:4",
        "jpeg progressive",
        "jpeg restarts",
        "jpeg 4:2:0",
        "jpeg gray",
    ]
    .map(jpeg_named)
    {
        let whole = decoded(&file).unwrap();
        let other = photo(7);
        let (end, scan) = (file.len() - 2, place(&file, 0xDA));
        let thumbnail = [b"Exif\0\0".as_slice(), &other].concat();
        for changed in [
            // A thumbnail with marks of its own.
            with_segment(&file, 2, 0xE1, &thumbnail),
            with_segment(&file, 2, 0xE2, &[b"MPF\0".as_slice(), &other].concat()),
            with_segment(&file, scan, 0xFE, b"note"),
            // Phones put whole pictures behind the first, and others put anything there.
            [file.as_slice(), &other].concat(),
            [file.as_slice(), &[0; 4096]].concat(),
            [file.as_slice(), b"\xFF\xFFSEFT\xFF\xDA\xFF\xC0"].concat(),
            // Fill bytes before marks.
            [&file[..end], &[0xFF, 0xFF], &file[end..]].concat(),
            [&file[..scan], &[0xFF, 0xFF], &file[scan..]].concat(),
            // A restart mark behind the last data.
            [&file[..end], &[0xFF, 0xD5], &file[end..]].concat(),
            // Bytes between the segments of the header, as Photoshop left them, and stuffed zeros.
            [&file[..place(&file, 0xDB)], b"hello", &file[place(&file, 0xDB)..]].concat(),
            [&file[..scan], &[4; MOST_EXTRA_BYTES], &file[scan..]].concat(),
            [&file[..scan], &[0xFF, 0, 0, 2], &file[scan..]].concat(),
            // Segments behind the last scan.
            with_segment(&file, end, 0xFE, b"note"),
            with_segment(&file, end, 0xE1, &thumbnail),
        ] {
            assert_eq!(decoded(&changed), Ok(whole.clone()));
        }
    }
}

#[test]
fn restart_marks_out_of_order_are_refused() {
    let file = jpeg_named("jpeg restarts");
    let start = data_start(&file);
    let at = |mark: u8| {
        start
            + file[start..]
                .windows(2)
                .position(|two| two == [0xFF, mark])
                .unwrap()
    };
    // The part between two of them is lost.
    let lost = [&file[..at(0xD1)], &file[at(0xD2)..]].concat();
    assert_eq!(decoded(&lost), Err(broken(RESTARTS)));
}

#[test]
fn more_bytes_between_segments_than_programs_leave_are_refused() {
    let file = photo(3);
    let frame = place(&file, 0xC0);
    let extra = [4; MOST_EXTRA_BYTES + 1];
    let found = decoded(&[&file[..frame], &extra, &file[frame..]].concat());
    assert!(
        found
            .unwrap_err()
            .to_string()
            .contains("Extra bytes between headers")
    );
}

#[test]
fn a_restart_mark_does_not_hide_that_data_are_missing() {
    for file in [photo(3), jpeg_named("jpeg restarts"), jpeg_named("jpeg 4:2:0")] {
        for cut in data_start(&file)..file.len() - 8 {
            for mark in 0xD0..=0xD7 {
                let closed = [&file[..cut], &[0xFF, mark, 0xFF, 0xD9]].concat();
                assert!(
                    decoded(&closed).is_err(),
                    "cut at {cut} of {}, {mark:x}",
                    file.len()
                );
            }
        }
    }
}

#[test]
fn a_webcams_picture_without_huffman_tables_has_the_standards() {
    let file = photo(3);
    let mut bare = file.clone();
    while let Some((_, at)) = marks(&bare).into_iter().find(|(mark, _)| *mark == 0xC4) {
        let length = usize::from(u16::from_be_bytes([bare[at + 2], bare[at + 3]]));
        bare.drain(at..at + 2 + length);
    }
    assert!(bare.len() + 400 < file.len());
    assert_eq!(decoded(&bare), decoded(&file));
    assert_eq!(
        size_and_orientation(&bare),
        Some((48, 40, Orientation::NoTransforms))
    );
}

#[test]
fn components_of_one_identifier_are_named() {
    let mut file = photo(3);
    let frame = place(&file, 0xC0);
    file[frame + 13] = file[frame + 10];
    let message = decoded(&file).unwrap_err().to_string();
    assert_eq!(message, format!("broken JPEG: {EQUAL_IDENTIFIERS}"));
}

#[test]
fn the_first_ff_is_found_wherever_it_is() {
    for length in 0..100 {
        let mut bytes = vec![0xFE; length];
        assert_eq!(first_ff(&bytes), None);
        for at in (0..length).rev() {
            bytes[at] = 0xFF;
            assert_eq!(first_ff(&bytes), Some(at));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any start of one picture that is not progressive, with another behind it from anywhere in its headers.
    #[test]
    fn a_join_across_marks_never_passes(
        which in (0usize..3, 0usize..4), cut in any::<prop::sample::Index>(), start in any::<prop::sample::Index>()
    ) {
        let files = [photo(3), photo(7), jpeg_named("jpeg restarts"), jpeg_named("jpeg progressive")];
        let (one, other) = (&files[which.0], &files[which.1]);
        let (first, last) = (data_start(one), one.len() - 2);
        let cut = first + cut.index(last - first);
        // Up to the first scan's header, which the join then contains.
        let start = start.index(place(other, 0xDA) + 1);
        if let Ok(image) = decoded(&[&one[..cut], &other[start..]].concat()) {
            // The first picture was whole, but for the ones that fill its last byte.
            prop_assert_eq!(image, decoded(one).unwrap(), "{:?} cut at {}, from {}", which, cut, start);
        }
    }
}
