//! The decoder against Pillow on images of every kind (`scripts/parity/decode.py`), and against damage.

use std::io::Read;

use flate2::read::GzDecoder;
use image::{ExtendedColorType, ImageEncoder};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    tolerance: u8,
    encoded: String,
    width: u32,
    height: u32,
    pixels: String,
}

fn bytes(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().as_chunks::<2>().0;
    pairs
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn cases() -> Vec<Case> {
    let mut text = String::new();
    GzDecoder::new(&include_bytes!("../../fixtures/decode.json.gz")[..])
        .read_to_string(&mut text)
        .unwrap();
    serde_json::from_str::<Fixture>(&text).unwrap().cases
}

/// The file of this case.
pub(super) fn jpeg_named(name: &str) -> Vec<u8> {
    let case = cases().into_iter().find(|case| case.name == name);
    bytes(&case.unwrap().encoded)
}

fn png(width: u32, height: u32, kind: ExtendedColorType, samples: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    image::codecs::png::PngEncoder::new(&mut out)
        .write_image(samples, width, height, kind)
        .unwrap();
    out
}

#[test]
fn every_kind_of_image_gives_pillows_pixels() {
    let mut worst = Vec::new();
    for case in cases() {
        let image = decode(&bytes(&case.encoded), &DecodeLimits::DEFAULT)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(
            (image.width, image.height),
            (case.width, case.height),
            "{}",
            case.name
        );
        let expected = bytes(&case.pixels);
        let most = image
            .pixels
            .iter()
            .zip(&expected)
            .map(|(ours, theirs)| ours.abs_diff(*theirs))
            .max()
            .unwrap();
        worst.push(format!("{} {most}", case.name));
        assert!(
            most <= case.tolerance,
            "{}: off by {most}, allowed {}",
            case.name,
            case.tolerance
        );
    }
    eprintln!("largest difference to Pillow, of 255: {}", worst.join(", "));
}

#[test]
fn sixteen_bits_become_eight() {
    let samples: Vec<u8> = [0u16, 255, 256, 32_768, 65_535, 257]
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect();
    let gray = decode(
        &png(6, 1, ExtendedColorType::L16, &samples),
        &DecodeLimits::DEFAULT,
    )
    .unwrap();
    let rgb = decode(
        &png(2, 1, ExtendedColorType::Rgb16, &samples),
        &DecodeLimits::DEFAULT,
    )
    .unwrap();
    for (image, expected) in [
        (
            gray,
            [0, 0, 0, 1, 1, 1, 1, 1, 1, 128, 128, 128, 255, 255, 255, 1, 1, 1].as_slice(),
        ),
        (rgb, &[0, 1, 1, 128, 255, 1]),
    ] {
        // Rounding to the nearest of 255 and taking the upper byte differ by at most one.
        assert!(
            image
                .pixels
                .iter()
                .zip(expected)
                .all(|(a, b)| a.abs_diff(*b) <= 1),
            "{:?}",
            image.pixels
        );
    }
}

#[test]
fn a_huge_header_is_refused_before_memory_is_taken() {
    // A PNG of 60,000 x 60,000 px in a hundred bytes: header, a little data, end.
    let mut bomb = png(1, 1, ExtendedColorType::Rgb8, &[1, 2, 3]);
    bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let mut checksum = flate2::Crc::new();
    checksum.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
    let error = decode(&bomb, &DecodeLimits::DEFAULT).unwrap_err();
    assert_eq!(
        error.to_string(),
        "60000 x 60000 px is over the limit of 178956970 px in all"
    );

    let small = DecodeLimits {
        side_px: 20,
        pixels: u64::MAX,
    };
    let jpeg = cases()
        .into_iter()
        .find(|case| case.name == "jpeg 4:2:0")
        .unwrap();
    assert!(matches!(
        decode(&bytes(&jpeg.encoded), &small),
        Err(DecodeError::TooLarge {
            width: 33,
            height: 22,
            ..
        })
    ));
}

#[test]
fn what_is_no_image_is_named() {
    let message = |content: &[u8]| decode(content, &DecodeLimits::DEFAULT).unwrap_err().to_string();
    assert_eq!(message(b""), "the file is empty");
    assert_eq!(
        message(b"<html>not found</html>"),
        "not an image: expected JPEG, PNG, WebP, BMP or GIF, found a web page"
    );
    assert_eq!(
        message(b"not found"),
        "not an image: expected JPEG, PNG, WebP, BMP or GIF, found text starting with `not found`"
    );
    // Phones and chats rename such files.
    assert_eq!(
        message(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        "not an image: expected JPEG, PNG, WebP, BMP or GIF, found a picture in the format HEIC; convert it to JPEG or PNG"
    );
    assert_eq!(
        message(b"version https://git-lfs.github.com/spec/v1\noid sha256:"),
        "not an image: expected JPEG, PNG, WebP, BMP or GIF, found Git LFS's pointer to the file, not the file itself"
    );
    assert_eq!(
        message(&[0, 1, 2, 255]),
        "not an image: expected JPEG, PNG, WebP, BMP or GIF, found bytes 00 01 02 ff"
    );
}

#[test]
fn a_cut_image_is_an_error_at_every_length() {
    for case in cases() {
        let whole = bytes(&case.encoded);
        for length in 0..whole.len() {
            let found = decode(&whole[..length], &DecodeLimits::DEFAULT);
            if case.name.starts_with("jpeg") {
                assert!(
                    found.is_err(),
                    "{} cut to {length} of {} bytes",
                    case.name,
                    whole.len()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any change to a file gives pixels or an error.
    #[test]
    fn damage_never_panics(which in 0usize..30, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let all = cases();
        let mut damaged = bytes(&all[which % all.len()].encoded);
        for (at, value) in flips {
            let at = at.index(damaged.len());
            damaged[at] ^= value;
        }
        let limits = DecodeLimits { side_px: 4096, pixels: 1 << 22 };
        if let Ok(image) = decode(&damaged, &limits) {
            prop_assert_eq!(image.pixels.len() as u64, u64::from(image.width) * u64::from(image.height) * 3);
        }
    }
}

fn gif(screen: (u16, u16), frame: (u16, u16)) -> Vec<u8> {
    let mut out = Vec::new();
    let (width, height) = (frame.0.min(16), frame.1.min(16));
    let pixels = vec![90u8; usize::from(width) * usize::from(height) * 3];
    image::codecs::gif::GifEncoder::new(&mut out)
        .encode(&pixels, width.into(), height.into(), ExtendedColorType::Rgb8)
        .unwrap();
    out[6..8].copy_from_slice(&screen.0.to_le_bytes());
    out[8..10].copy_from_slice(&screen.1.to_le_bytes());
    // The frame's own sides, five bytes after its mark.
    let (found, at) = (
        gif_frame(&out).unwrap(),
        out.windows(9)
            .position(|bytes| {
                bytes[0] == 0x2C && bytes[5..7] == width.to_le_bytes() && bytes[7..9] == height.to_le_bytes()
            })
            .unwrap(),
    );
    assert_eq!(found, (width.into(), height.into()));
    out[at + 5..at + 7].copy_from_slice(&frame.0.to_le_bytes());
    out[at + 7..at + 9].copy_from_slice(&frame.1.to_le_bytes());
    out
}

#[test]
fn a_picture_without_pixels_is_an_error_and_so_is_a_frame_over_the_limits() {
    let all = &DecodeLimits::DEFAULT;
    assert_eq!(decode(&gif((16, 16), (16, 16)), all).unwrap().pixels.len(), 768);
    for screen in [(0, 0), (0, 16), (16, 0)] {
        let (width, height) = (screen.0.into(), screen.1.into());
        assert_eq!(
            decode(&gif(screen, (16, 16)), all).unwrap_err(),
            DecodeError::NoPixels { width, height }
        );
    }
    assert_eq!(
        decode(&gif((16, 16), (0, 16)), all).unwrap_err(),
        DecodeError::NoPixels { width: 0, height: 16 }
    );
    // The screen is small, and the frame in it is not.
    assert!(matches!(
        decode(&gif((16, 16), (60_000, 60_000)), all),
        Err(DecodeError::TooLarge { width: 60_000, .. })
    ));
}

/// Set in the process that decodes the picture of the next test, so that no other test's memory is counted.
const DECODES_ALONE: &str = "PASSER_TEST_DECODES_ALONE";

#[test]
fn a_color_profile_that_unpacks_to_gigabytes_is_refused() {
    if std::env::var_os(DECODES_ALONE).is_none() {
        let program = std::env::current_exe().unwrap();
        let name = "decode::tests::a_color_profile_that_unpacks_to_gigabytes_is_refused";
        let done = std::process::Command::new(program)
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(DECODES_ALONE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{text}");
        let peak = text.lines().find_map(|line| line.strip_prefix("peak KiB "));
        match peak {
            Some(peak) => assert!(peak.parse::<u64>().unwrap() < 512 << 10, "{peak} KiB"),
            None => assert_ne!(std::env::consts::OS, "linux", "{text}"),
        }
        return;
    }
    // Zeros compress a thousandfold: a gigabyte of profile in a megabyte.
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..1024 {
        std::io::Write::write_all(&mut packed, &zeros).unwrap();
    }
    let mut chunk = b"iCCPx\0\0".to_vec();
    chunk.extend(packed.finish().unwrap());
    let mut checksum = flate2::Crc::new();
    checksum.update(&chunk);
    let plain = png(2, 1, ExtendedColorType::Rgb8, &[1, 2, 3, 4, 5, 6]);
    let mut bomb = plain[..33].to_vec();
    bomb.extend((chunk.len() as u32 - 4).to_be_bytes());
    bomb.extend(chunk);
    bomb.extend(checksum.sum().to_be_bytes());
    bomb.extend(&plain[33..]);
    // The profile is left out or the picture is; either way its gigabytes are not unpacked.
    if let Ok(image) = decode(&bomb, &DecodeLimits::DEFAULT) {
        assert_eq!(image.pixels, [1, 2, 3, 4, 5, 6]);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    if let Some(peak) = peak {
        eprintln!("\npeak KiB {}", peak.trim().trim_end_matches(" kB"));
    }
}

#[test]
fn a_panic_in_a_pictures_work_is_its_own_error() {
    let picture = png(2, 1, ExtendedColorType::Rgb8, &[1, 2, 3, 4, 5, 6]);
    let sum = decode_and(&picture, &DecodeLimits::DEFAULT, |image| {
        image.pixels.iter().map(|value| u32::from(*value)).sum::<u32>()
    });
    assert_eq!(sum, Ok(21));
    let error = decode_and(&picture, &DecodeLimits::DEFAULT, |image| image.pixels[6]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the program panicked on it: index out of bounds"),
        "{error}"
    );
}

#[test]
fn a_jpeg_of_more_pixels_than_its_bytes_can_hold_is_refused_before_memory_is_taken() {
    // One color, 2,000 x 1,500 px: the fewest bytes that an encoder needs.
    let mut plain = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut plain, 1)
        .encode(
            &vec![128; 2_000 * 1_500 * 3],
            2_000,
            1_500,
            ExtendedColorType::Rgb8,
        )
        .unwrap();
    assert_eq!(decode(&plain, &DecodeLimits::DEFAULT).unwrap().width, 2_000);
    let frame = plain.windows(2).position(|mark| mark == [0xFF, 0xC0]).unwrap();
    plain[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0x00, 0x0A, 0x00]);
    let bomb = [&plain[..frame + 2_000], &[0xFF, 0xD9]].concat();
    assert_eq!(
        decode(&bomb, &DecodeLimits::DEFAULT),
        Err(DecodeError::Truncated { format: "JPEG" })
    );
}

#[test]
fn rows_that_a_jpegs_data_do_not_reach_are_never_those_of_an_earlier_picture() {
    let pixels: Vec<u8> = (0..16 * 16 * 3).map(|at| (at * 37 % 256) as u8).collect();
    let mut file = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut file)
        .encode(&pixels, 16, 16, ExtendedColorType::Rgb8)
        .unwrap();
    // A comment behind the pixels' data ends them for the decoder.
    let end = file.len() - 2;
    drop(file.splice(end..end, *b"\xFF\xFE\x00\x06note"));
    let mut reused = RgbImage {
        pixels: vec![7; 16 * 64 * 3],
        ..RgbImage::default()
    };
    decode_into(&file, &DecodeLimits::DEFAULT, &mut reused).unwrap();
    assert_eq!(reused, decode(&file, &DecodeLimits::DEFAULT).unwrap());
    // 64 rows where data of 16 follow.
    let frame = file.windows(2).position(|mark| mark == [0xFF, 0xC0]).unwrap();
    file[frame + 5..frame + 7].copy_from_slice(&[0, 64]);
    reused.pixels = vec![7; 16 * 64 * 3];
    assert_eq!(
        decode_into(&file, &DecodeLimits::DEFAULT, &mut reused),
        Err(DecodeError::Truncated { format: "JPEG" })
    );
}

#[test]
fn a_coding_of_jpeg_that_is_not_read_is_named() {
    let mut file = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut file)
        .encode(&[128; 8 * 8 * 3], 8, 8, ExtendedColorType::Rgb8)
        .unwrap();
    let frame = file.windows(2).position(|mark| mark == [0xFF, 0xC0]).unwrap();
    for mark in [0xC3, 0xC9, 0xCA] {
        file[frame + 1] = mark;
        let error = decode(&file, &DecodeLimits::DEFAULT).unwrap_err().to_string();
        assert_eq!(
            error,
            "broken JPEG: arithmetic coding, lossless coding and hierarchies are not read; save it as a usual JPEG"
        );
    }
    file[frame + 1] = 0xC1;
    assert_eq!(decode(&file, &DecodeLimits::DEFAULT).unwrap().width, 8);
}
