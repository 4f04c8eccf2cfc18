//! Data behind the last pixel and beside the picture, as phones, editors and archivers leave them: they go, and the
//! rest of the file is the same to the byte.

use image::AnimationDecoder;

use super::*;

/// What is found behind the ends of pictures: its name, its kind, its bytes.
fn appended() -> [(&'static str, &'static str, Vec<u8>); 5] {
    let video = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\0\x0emdatSECRET".to_vec();
    let samsung = b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_DataSECRETSEFHk\0\0\0\x01\0\0\0SEFT".to_vec();
    [
        ("a Motion Photo's video", "thumbnail", video),
        ("the second picture of an MPF file", "thumbnail", JPEG.to_vec()),
        (
            "an archive",
            "other",
            b"PK\x03\x04\x14\0SECRETPK\x05\x06\0\0\0\0".to_vec(),
        ),
        ("a phone's trailer", "other", samsung),
        ("a text", "other", b"SECRET".to_vec()),
    ]
}

fn clean(file: &[u8]) -> Vec<u8> {
    strip(file, PRIVATE).unwrap().file.into_owned()
}

/// Checks that a file with hidden data becomes `clean` again.
#[track_caller]
fn goes(name: &str, kinds: &[&str], hidden: &[u8], clean: &[u8]) {
    let stripped = strip(hidden, PRIVATE).unwrap();
    assert!(*stripped.file == *clean, "{name}");
    assert_eq!(names(stripped.removed), kinds, "{name}");
}

#[test]
fn what_lies_behind_the_end_of_a_file_goes() {
    for (format, file) in ALL {
        let clean = clean(file);
        for (name, kind, bytes) in appended() {
            let hidden = [&clean[..], &bytes].concat();
            goes(&format!("{name} in {format}"), &[kind], &hidden, &clean);
            assert_eq!(pixels(&clean).unwrap(), pixels(&hidden).unwrap());
        }
        // Padding is no data of anybody.
        let padded = [&clean[..], &[0; 64]].concat();
        assert!(*strip(&padded, PRIVATE).unwrap().file == *clean, "{format}");
    }
}

fn segment(mark: u8, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16 + 2).to_be_bytes();
    [&[0xFF, mark], &length[..], data].concat()
}

#[test]
fn segments_of_applications_go_from_a_jpeg_before_and_behind_its_scans() {
    let clean = clean(JPEG);
    let end = clean.len() - 2;
    for (name, mark, data) in [
        ("MPF", 0xE2, &b"MPF\0II*\0\x08\0\0\0SECRET"[..]),
        ("FlashPix", 0xE2, b"FPXR\0\0SECRET"),
        ("an unknown APP2", 0xE2, b"SECRET"),
        ("a depth map", 0xE8, b"SECRET"),
        ("JUMBF with C2PA", 0xEB, b"JP\0\x01\0\0\0\x01\0\0\0\x14jumbSECRET"),
        ("Ducky", 0xEC, b"Ducky\0SECRET"),
        ("no Photoshop", 0xED, b"SECRET"),
        ("APP15", 0xEF, b"SECRET"),
        ("a reserved segment", 0xC8, b"SECRET"),
        ("conditions of arithmetic coding", 0xCC, b"SECRET"),
        ("an extension", 0xF7, b"SECRET"),
    ] {
        let segment = segment(mark, data);
        for at in [2, end] {
            let hidden = [&clean[..at], &segment, &clean[at..]].concat();
            goes(&format!("{name} at {at}"), &["other"], &hidden, &clean);
        }
    }
    let comment = [&clean[..end], &segment(0xFE, b"SECRET"), &clean[end..]].concat();
    goes("a comment behind the scan", &["comment"], &comment, &clean);
    // Photoshop's thumbnail in a second segment; the credit in the first one stays.
    let thumbnail = segment(0xED, b"Photoshop 3.0\x008BIM\x04\x0c\0\0\0\0\0\x06SECRET");
    let hidden = [&clean[..end], &thumbnail, &clean[end..]].concat();
    goes("Photoshop's thumbnail", &["thumbnail"], &hidden, &clean);
}

#[test]
fn what_lies_behind_a_table_or_header_of_a_jpeg_goes() {
    let clean = clean(JPEG);
    for mark in [0xDB, 0xC0, 0xC4, 0xDA] {
        let at = clean.windows(2).position(|bytes| bytes == [0xFF, mark]).unwrap();
        let length = usize::from(u16::from_be_bytes([clean[at + 2], clean[at + 3]]));
        let data = [&clean[at + 4..at + 2 + length], b"SECRET"].concat();
        let hidden = [&clean[..at], &segment(mark, &data), &clean[at + 2 + length..]].concat();
        goes(&format!("{mark:#x}"), &["other"], &hidden, &clean);
    }
    let restart = [&clean[..2], &segment(0xDD, b"\0\0"), &clean[2..]].concat();
    let hidden = [&clean[..2], &segment(0xDD, b"\0\0SECRET"), &clean[2..]].concat();
    goes("restart interval", &["other"], &hidden, &restart);
}

#[test]
fn a_second_picture_within_an_unfinished_jpeg_is_refused() {
    let clean = clean(JPEG);
    let unfinished = &clean[..clean.len() - 2];
    assert!(strip(&[unfinished, JPEG].concat(), PRIVATE).is_err());
    assert!(strip(unfinished, PRIVATE).is_ok());
}

fn png_chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut sum = flate2::Crc::new();
    sum.update(name);
    sum.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], name, data, &sum.sum().to_be_bytes()].concat()
}

#[test]
fn pixels_and_texts_that_no_decoder_of_png_shows_go() {
    let plain = png_of(0, 0, 18, b"", &[]);
    // Behind the header, and before the end.
    let (begin, end) = (8 + 25, plain.len() - 12);
    let with = |at: usize, chunk: &[u8]| [&plain[..at], chunk, &plain[at..]].concat();
    let frame = png_chunk(b"fdAT", b"\0\0\0\x01SECRET");
    goes("no animation", &["thumbnail"], &with(end, &frame), &plain);
    let late = [png_chunk(b"acTL", b"\0\0\0\x02\0\0\0\0"), frame.clone()].concat();
    goes(
        "announced too late",
        &["thumbnail", "other"],
        &with(end, &late),
        &plain,
    );
    goes(
        "too long",
        &["other"],
        &with(begin, &png_chunk(b"gAMA", b"SECRET")),
        &plain,
    );
    let gamma = png_chunk(b"gAMA", b"\0\0\xb1\x8f");
    let twice = with(begin, &[&gamma[..], &png_chunk(b"gAMA", b"SECR")].concat());
    goes("twice", &["other"], &twice, &with(begin, &gamma));
    let ended = [&plain[..end], &png_chunk(b"IEND", b"SECRET")].concat();
    goes("in the end", &["other"], &ended, &plain);
    // One frame is announced.
    let control = png_chunk(b"fcTL", &[0; 26]);
    let announced = with(
        begin,
        &[&png_chunk(b"acTL", b"\0\0\0\x01\0\0\0\0")[..], &control].concat(),
    );
    let end = announced.len() - 12;
    let second = [&announced[..end], &control, &frame, &announced[end..]].concat();
    goes("a frame too many", &["thumbnail", "other"], &second, &announced);
    let apart = [png_chunk(b"sRGB", b"\0"), png_chunk(b"IDAT", b"SECRET")].concat();
    assert!(strip(&with(plain.len() - 12, &apart), PRIVATE).is_err());
}

fn webp_with(clean: &[u8], name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_le_bytes();
    let padding = &[0][..data.len() % 2];
    let mut file = [clean, name, &length, data, padding].concat();
    let length = (file.len() - 8) as u32;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    file
}

#[test]
fn chunks_and_pictures_that_no_decoder_of_webp_shows_go() {
    let clean = clean(WEBP);
    let at = clean.windows(4).position(|name| name == b"VP8 ").unwrap();
    let length = u32::from_le_bytes(clean[at + 4..at + 8].try_into().unwrap()) as usize;
    let picture = clean[at + 8..at + 8 + length].to_vec();
    let frame = [&[0; 16][..], b"VP8 ", &(length as u32).to_le_bytes(), &picture].concat();
    for (name, kind, data) in [
        (b"VP8 ", "thumbnail", &picture[..]),
        (b"VP8L", "thumbnail", b"SECRET"),
        (b"ANMF", "thumbnail", &frame),
        (b"ANIM", "other", b"SECRET"),
        (b"ICCP", "other", b"SECRET"),
        (b"SECR", "other", b"SECRET!"),
    ] {
        let hidden = webp_with(&clean, name, data);
        goes(&String::from_utf8_lossy(name), &[kind], &hidden, &clean);
        // A picture of two kinds is none.
        if name != b"VP8L" {
            assert_eq!(pixels(&hidden).unwrap(), pixels(&clean).unwrap());
        }
    }
}

#[test]
fn chunks_that_come_once_hide_nothing_in_a_second_one_or_behind_their_end() {
    let plain = png_of(2, 0, 3 * 16, b"", &[]);
    let begin = 8 + 25;
    let with = |chunks: &[u8]| [&plain[..begin], chunks, &plain[begin..]].concat();
    let palette = png_chunk(b"PLTE", &[5; 6]);
    let transparent = png_chunk(b"tRNS", &[0, 1, 0, 2, 0, 3]);
    let announced = png_chunk(b"acTL", b"\0\0\0\x01\0\0\0\0SECRET");
    let shown = |file: &[u8]| {
        let shown = data::shown(file, &data::DecodeLimits::DEFAULT);
        shown.ok().map(|shown| shown.hash)
    };
    for (name, hidden, expected) in [
        (
            "a long palette",
            with(&png_chunk(b"PLTE", &[b'S'; 900])),
            plain.clone(),
        ),
        (
            "a second palette",
            with(&[&palette[..], &palette].concat()),
            with(&palette),
        ),
        (
            "long transparency",
            with(&png_chunk(b"tRNS", &[b'S'; 300])),
            plain.clone(),
        ),
        (
            "a second transparency",
            with(&[&transparent[..], &transparent].concat()),
            with(&transparent),
        ),
        (
            "behind an animation's length",
            with(&[announced, png_chunk(b"fcTL", &[0; 26])].concat()),
            plain.clone(),
        ),
        (
            "behind a frame's place",
            with(&png_chunk(b"fcTL", &[b'S'; 40])),
            plain.clone(),
        ),
    ] {
        // Where decoders would show something else, the file is refused.
        match strip(&hidden, PRIVATE) {
            Ok(stripped) => assert!(*stripped.file == *expected, "{name}"),
            Err(_) => assert_ne!(shown(&hidden), shown(&expected), "{name}"),
        }
    }
}

#[test]
fn the_keyword_of_a_credit_in_words_of_somebodys_own_goes() {
    let plain = png_of(0, 0, 18, b"", &[]);
    let with = |data: &[u8]| [&plain[..33], &png_chunk(b"iTXt", data), &plain[33..]].concat();
    let kept = with(b"Author\0\0\0\0\0CREDIT");
    for data in [
        &b"Author\0\0\0en\0SECRET\0CREDIT"[..],
        b"Author\0\0\0x-SECRET\0\0CREDIT",
    ] {
        goes("a credit", &["other"], &with(data), &kept);
    }
    for same in [kept.clone(), with(b"Author\0\0\0en\0\0CREDIT")] {
        assert!(matches!(strip(&same, PRIVATE).unwrap().file, Cow::Borrowed(_)));
    }
}

/// The least that is a color profile, and more bytes behind it.
fn profile(more: &[u8]) -> Vec<u8> {
    let mut profile = vec![0; 132];
    profile[3] = 132;
    profile[36..40].copy_from_slice(b"acsp");
    profile.extend(more);
    profile
}

#[test]
fn bytes_behind_a_color_profile_and_in_its_place_go() {
    let clean = clean(JPEG);
    let at = clean.windows(2).position(|mark| mark == [0xFF, 0xE2]).unwrap();
    let length = usize::from(u16::from_be_bytes([clean[at + 2], clean[at + 3]]));
    let with = |parts: &[&[u8]]| {
        let parts = parts
            .iter()
            .flat_map(|part| segment(0xE2, &[b"ICC_PROFILE\0", *part].concat()));
        let parts: Vec<u8> = parts.collect();
        [&clean[..at], &parts, &clean[at + 2 + length..]].concat()
    };
    let part = |more: &[u8]| [&[1, 1][..], &profile(more)].concat();
    goes(
        "no profile",
        &["unreadable"],
        &with(&[b"\x01\x01SECRET"]),
        &with(&[]),
    );
    goes(
        "behind it",
        &["other"],
        &with(&[&part(b"SECRET")]),
        &with(&[&part(b"")]),
    );
    let second = with(&[&part(b""), b"\x02\x01SECRET"]);
    goes("a second part", &["other"], &second, &with(&[&part(b"")]));

    let plain = png_of(0, 0, 18, b"", &[]);
    let with = |data: &[u8]| [&plain[..33], &png_chunk(b"iCCP", data), &plain[33..]].concat();
    let packed = |profile: &[u8]| {
        let mut packed = b"icc\0\0".to_vec();
        let mut encoder = flate2::read::ZlibEncoder::new(profile, flate2::Compression::default());
        std::io::Read::read_to_end(&mut encoder, &mut packed).unwrap();
        packed
    };
    let kept = with(&packed(&profile(b"")));
    assert!(matches!(strip(&kept, PRIVATE).unwrap().file, Cow::Borrowed(_)));
    goes("no profile", &["unreadable"], &with(&packed(b"SECRET")), &plain);
    goes("nothing packed", &["unreadable"], &with(b"icc\0\0SECRET"), &plain);
    goes(
        "behind it",
        &["other"],
        &with(&packed(&profile(b"SECRET"))),
        &kept,
    );
    let behind = [packed(&profile(b"")), b"SECRET".to_vec()].concat();
    goes("behind the packed one", &["other"], &with(&behind), &kept);

    let plain = gif_with(b"", b"");
    let end = plain.len() - 1;
    let with = |blocks: &[u8]| [&plain[..end], b"\x21\xff\x0bICCRGBG1012", blocks, &plain[end..]].concat();
    goes("no profile", &["unreadable"], &with(b"\x06SECRET\0"), &plain);
    let block = |profile: &[u8]| [&[profile.len() as u8][..], profile, &[0]].concat();
    let kept = with(&block(&profile(b"")));
    assert!(matches!(strip(&kept, PRIVATE).unwrap().file, Cow::Borrowed(_)));
    goes("behind it", &["other"], &with(&block(&profile(b"SECRET"))), &kept);

    let mut webp = self::clean(WEBP);
    let at = webp.windows(4).position(|name| name == b"ICCP").unwrap();
    webp[at + 8..at + 14].copy_from_slice(b"SECRET");
    webp[at + 8 + 36] = 0;
    let stripped = strip(&webp, PRIVATE).unwrap();
    assert!(!holds(&stripped.file, "ICCP") && pixels(&stripped.file) == pixels(&webp));
    assert!(stripped.file[20] & 0x20 == 0 && scan(&stripped.file).unwrap().is_empty());
}

/// A GIF of 2 x 2 px; `more` follows its compressed pixels in their block, `blocks` are blocks behind it.
fn gif_with(more: &[u8], blocks: &[u8]) -> Vec<u8> {
    // Clear, four colors, end: four codes of 3 bits, then two of 4 bits, the lowest bits first.
    let codes = 4u32 | (1 << 6) | (2 << 9) | (3 << 12) | (5 << 16);
    let stream = [&codes.to_le_bytes()[..3], more].concat();
    [
        b"GIF89a\x02\0\x02\0\x81\0\0",
        &b"\0\0\0\x40\0\0\0\x80\0\xff\xff\xff"[..],
        b"\x2c\0\0\0\0\x02\0\x02\0\0\x02",
        &[stream.len() as u8],
        &stream,
        blocks,
        b"\0\x3b",
    ]
    .concat()
}

#[test]
fn what_lies_behind_the_last_pixel_of_a_gif_goes() {
    let plain = gif_with(b"", b"");
    assert!(matches!(strip(&plain, PRIVATE).unwrap().file, Cow::Borrowed(_)));
    let picture = pixels(&plain).unwrap();
    assert_eq!((picture.width, picture.height), (2, 2));
    for hidden in [
        gif_with(b"SECRET", b""),
        gif_with(b"", b"\x06SECRET"),
        gif_with(b"SECRET", &[&[200u8][..], &[b'S'; 200]].concat()),
    ] {
        goes("behind the end code", &["thumbnail"], &hidden, &plain);
        assert_eq!(pixels(&hidden).unwrap(), picture);
    }
}

#[test]
fn extensions_between_the_frames_of_a_gif_go_and_its_frames_stay() {
    let frames = |file: &[u8]| {
        let decoder = image::codecs::gif::GifDecoder::new(std::io::Cursor::new(file.to_vec())).unwrap();
        let frames = decoder.into_frames().collect_frames().unwrap();
        let seen = frames
            .into_iter()
            .map(|frame| (frame.delay().numer_denom_ms(), frame.into_buffer()));
        seen.collect::<Vec<_>>()
    };
    let clean = clean(GIF);
    assert!(frames(GIF).len() > 1 && frames(&clean) == frames(GIF));
    // A known name in a block of another length is an unknown extension.
    let long = [
        b"\x21\xff\x13NETSCAPE2.0SECRET!!\x03\x01\x02\0\0".as_slice(),
        b"\x21\xff\x13ICCRGBG1012SECRET!!\x03\x01\x02\0\0",
    ];
    for extension in long {
        let end = clean.len() - 1;
        let hidden = [&clean[..end], extension, &clean[end..]].concat();
        goes("a known name", &["other"], &hidden, &clean);
    }
    let is_control = |bytes: &[u8]| bytes == [0x21, 0xF9, 0x04];
    let second = clean.windows(3).rposition(is_control).unwrap();
    for (kind, extension) in [
        ("comment", &b"\x21\xfe\x06SECRET\0"[..]),
        ("other", b"\x21\xff\x0bSECRETS1.00\x06SECRET\0"),
    ] {
        for at in [second, clean.len() - 1] {
            let hidden = [&clean[..at], extension, &clean[at..]].concat();
            goes(&format!("{kind} at {at}"), &[kind], &hidden, &clean);
        }
    }
    // The decoder stops at a label that it does not know: where frames follow that it would show only afterwards, the file is
    // refused.
    for at in [second, clean.len() - 1] {
        let hidden = [&clean[..at], b"\x21\x99\x06SECRET\0", &clean[at..]].concat();
        match strip(&hidden, PRIVATE) {
            Ok(stripped) => assert!(*stripped.file == *clean, "at {at}"),
            Err(Unreadable(reason)) => assert!(reason.contains("would change"), "at {at}: {reason}"),
        }
    }
}

#[test]
fn bytes_that_no_reader_of_a_credit_in_a_png_shows_go() {
    let plain = png_of(0, 0, 18, b"", &[]);
    let with = |name: &[u8; 4], data: &[u8]| [&plain[..33], &png_chunk(name, data), &plain[33..]].concat();
    let text = with(b"tEXt", b"Copyright\0CREDIT");
    goes(
        "a zero",
        &["other"],
        &with(b"tEXt", b"Copyright\0CREDIT\0SECRET"),
        &text,
    );
    let packed = |text: &[u8], behind: &[u8]| {
        let mut packed = Vec::new();
        let mut encoder = flate2::read::ZlibEncoder::new(text, flate2::Compression::default());
        std::io::Read::read_to_end(&mut encoder, &mut packed).unwrap();
        [&packed[..], behind].concat()
    };
    let compressed =
        |text: &[u8], behind: &[u8]| with(b"zTXt", &[b"Author\0\0", &packed(text, behind)[..]].concat());
    let kept = compressed(b"CREDIT", b"");
    assert!(matches!(strip(&kept, PRIVATE).unwrap().file, Cow::Borrowed(_)));
    goes(
        "behind the stream",
        &["other"],
        &compressed(b"CREDIT", b"SECRET"),
        &kept,
    );
    goes(
        "a zero in the stream",
        &["other"],
        &compressed(b"CREDIT\0SECRET", b""),
        &kept,
    );
    let international = [b"Author\0\x01\0\0\0", &packed(b"CREDIT", b"SECRET")[..]].concat();
    let kept = with(b"iTXt", b"Author\0\0\0\0\0CREDIT");
    goes(
        "behind an international one",
        &["other"],
        &with(b"iTXt", &international),
        &kept,
    );
}

/// A PNG of two frames of 4 x 2 px in three chunks of data, with these bytes behind the second one's rows and stream.
fn two_frames(below: &[u8], behind: &[u8]) -> Vec<u8> {
    let stream = |rows: &[u8]| {
        let mut packed = Vec::new();
        let mut encoder = flate2::read::ZlibEncoder::new(rows, flate2::Compression::default());
        std::io::Read::read_to_end(&mut encoder, &mut packed).unwrap();
        packed
    };
    let control = |number: u8| {
        let head = [
            0, 0, 0, number, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 10, 0, 0,
        ];
        png_chunk(b"fcTL", &head)
    };
    let rows = |gray: u8| [0, gray, gray, gray, gray, 0, gray, gray, gray, 9].to_vec();
    let second = [stream(&[&rows(80)[..], below].concat()), behind.to_vec()].concat();
    let (first, rest) = second.split_at(5);
    let data = |number: u8, part: &[u8]| png_chunk(b"fdAT", &[&[0, 0, 0, number], part].concat());
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        png_chunk(b"IHDR", &[0, 0, 0, 4, 0, 0, 0, 2, 8, 0, 0, 0, 0]),
        png_chunk(b"acTL", &[0, 0, 0, 3, 0, 0, 0, 0]),
        control(0),
        png_chunk(b"IDAT", &stream(&rows(10))),
        control(1),
        data(2, first),
        data(3, rest),
        control(4),
        data(5, &stream(&rows(200))),
        png_chunk(b"IEND", b""),
    ]
    .concat()
}

#[test]
fn data_behind_the_last_row_of_a_later_frame_of_a_png_go() {
    let shown = |file: &[u8]| data::shown(file, &data::DecodeLimits::DEFAULT).unwrap();
    let plain = two_frames(b"", b"");
    assert!(shown(&plain).is_whole);
    assert!(matches!(strip(&plain, PRIVATE).unwrap().file, Cow::Borrowed(_)));
    for (below, behind) in [
        (&b""[..], &b"SECRET"[..]),
        (b"\0SECR\0ETSE", b""),
        (b"\0SECR", b"SECRET"),
    ] {
        let hidden = two_frames(below, behind);
        let stripped = strip(&hidden, PRIVATE).unwrap();
        assert_eq!(names(stripped.removed), ["thumbnail"]);
        assert!(stripped.is_compared && shown(&stripped.file) == shown(&plain));
        assert!(!holds(&stripped.file, "SECRET"));
        let again = strip(&stripped.file, PRIVATE).unwrap();
        assert!(again.removed.is_empty() && matches!(again.file, Cow::Borrowed(_)));
    }
}

/// A BMP of 3 x 2 px in 24 or 8 bits, with this byte wherever no decoder reads.
fn bmp(bits: u16, unused: u8) -> Vec<u8> {
    let colors: Vec<u8> = match bits {
        8 => (0..=255)
            .flat_map(|color| [color, color, color, unused])
            .collect(),
        _ => Vec::new(),
    };
    let used = 3 * usize::from(bits) / 8;
    let row = used.div_ceil(4) * 4;
    let rows = (0..2).flat_map(|_| (0..row).map(|at| if at < used { 40 + at as u8 } else { unused }));
    let pixels_at = 54 + colors.len() as u32;
    let length = pixels_at + 2 * row as u32;
    let mut file = b"BM".to_vec();
    for number in [length, 0, pixels_at, 40, 3, 2] {
        file.extend(number.to_le_bytes());
    }
    file.extend(1u16.to_le_bytes());
    file.extend(bits.to_le_bytes());
    for number in [0, 2 * row as u32, 0, 0, 0, 0] {
        file.extend(u32::to_le_bytes(number));
    }
    file.extend(colors);
    file.extend(rows);
    file
}

#[test]
fn bytes_that_fill_rows_and_colors_of_a_bmp_go() {
    for bits in [24, 8] {
        let plain = bmp(bits, 0);
        assert!(matches!(strip(&plain, PRIVATE).unwrap().file, Cow::Borrowed(_)));
        assert!(pixels(&plain).is_ok());
        goes("a BMP", &["other"], &bmp(bits, b'S'), &plain);
    }
}
