//! Photos with metadata of every kind, written by `scripts/curate/embedded_metadata.py`, and broken ones: private
//! texts in them hold the word SECRET, credits the word CREDIT.

mod behind;
mod damage;

use proptest::prelude::*;

use super::*;

const JPEG: &[u8] = include_bytes!("../../fixtures/embedded/baseline.jpg");
const PNG: &[u8] = include_bytes!("../../fixtures/embedded/chunks.png");
const WEBP: &[u8] = include_bytes!("../../fixtures/embedded/lossy.webp");
const GIF: &[u8] = include_bytes!("../../fixtures/embedded/animation.gif");
const BMP: &[u8] = include_bytes!("../../fixtures/embedded/gap.bmp");
const ALL: [(&str, &[u8]); 5] = [
    ("JPEG", JPEG),
    ("PNG", PNG),
    ("WebP", WEBP),
    ("GIF", GIF),
    ("BMP", BMP),
];

const PRIVATE: FileMetadata = FileMetadata::StripPrivate;

fn pixels(file: &[u8]) -> Result<data::RgbImage, String> {
    data::decode(file, &data::DecodeLimits::DEFAULT).map_err(|error| error.to_string())
}

/// Whether a text is in the file, in one byte or two per letter.
fn holds(file: &[u8], text: &str) -> bool {
    let one = text.as_bytes();
    let two: Vec<u8> = one.iter().flat_map(|letter| [*letter, 0]).collect();
    [one, &two]
        .iter()
        .any(|text| file.windows(text.len()).any(|window| window == *text))
}

fn names(kinds: Kinds) -> Vec<&'static str> {
    kinds.names().map(|(name, _)| name).collect()
}

#[test]
fn private_metadata_go_and_pixels_orientation_color_and_credit_stay() {
    for (format, file) in ALL {
        let stripped = strip(file, PRIVATE).unwrap().file;
        assert!(!holds(&stripped, "SECRET"), "{format}");
        assert_eq!(pixels(&stripped).unwrap(), pixels(file).unwrap(), "{format}");
        if format != "BMP" {
            for credit in [
                "CREDIT Ann &amp; Bob",
                "CREDIT © &lt;Ann&gt;",
                "CREDIT line",
                "CREDIT terms",
            ] {
                assert!(holds(&stripped, credit), "{format}: {credit}");
            }
        }
        if ["JPEG", "PNG", "WebP"].contains(&format) {
            for credit in [
                "CREDIT Artist\0",
                "CREDIT Copyright\0",
                "CREDIT Photographer\0",
                "CREDIT Author",
            ] {
                assert!(holds(&stripped, credit), "{format}: {credit}");
            }
            // The picture lies on its side, and is 32 px wide when it is upright.
            assert_eq!(pixels(&stripped).unwrap().width, 32, "{format}");
        }
        assert!(scan(&stripped).unwrap().is_empty(), "{format}");
        assert!(
            matches!(strip(&stripped, PRIVATE).unwrap().file, Cow::Borrowed(_)),
            "{format}"
        );
    }
    let stripped = strip(JPEG, PRIVATE).unwrap().file;
    for credit in [
        "CREDIT by-line",
        "CREDIT credit",
        "CREDIT source",
        "CREDIT copyright",
        "org/CREDIT",
        "Adobe\0\x64",
    ] {
        assert!(holds(&stripped, credit), "{credit}");
    }
}

#[test]
fn without_credit_only_orientation_and_color_stay() {
    for (format, file) in ALL {
        let stripped = strip(file, FileMetadata::StripAll).unwrap().file;
        assert!(
            !holds(&stripped, "SECRET") && !holds(&stripped, "CREDIT"),
            "{format}"
        );
        assert_eq!(pixels(&stripped).unwrap(), pixels(file).unwrap(), "{format}");
        if ["JPEG", "PNG", "WebP"].contains(&format) {
            let profile: &[u8] = if format == "PNG" { b"iCCP" } else { b"acsp" };
            assert!(stripped.windows(4).any(|window| window == profile), "{format}");
        }
        assert!(scan(&stripped).unwrap().is_empty(), "{format}");
        let again = strip(&stripped, FileMetadata::StripAll).unwrap();
        assert!(matches!(again.file, Cow::Borrowed(_)), "{format}");
    }
}

#[test]
fn a_file_that_is_kept_is_the_same_and_a_scan_names_the_kinds_in_it() {
    for (_, file) in ALL {
        assert!(matches!(strip(file, FileMetadata::Keep).unwrap().file, Cow::Borrowed(kept) if kept == file));
    }
    let all = [
        "position",
        "owner",
        "serial",
        "people",
        "comment",
        "thumbnail",
        "maker_note",
        "other",
    ];
    assert_eq!(names(scan(JPEG).unwrap()), all);
    assert_eq!(names(scan(PNG).unwrap()), all);
    assert_eq!(names(scan(WEBP).unwrap()), all);
    let of_xmp = [
        "position",
        "owner",
        "serial",
        "people",
        "comment",
        "thumbnail",
        "other",
    ];
    assert_eq!(names(scan(GIF).unwrap()), of_xmp);
    assert_eq!(names(scan(BMP).unwrap()), ["other"]);
}

/// A TIFF file of one directory, big-endian: tag, type, count, value of four bytes.
fn tiff(entries: &[(u16, u16, u32, [u8; 4])], more: &[u8]) -> Vec<u8> {
    let mut out = b"MM\0*\0\0\0\x08".to_vec();
    out.extend((entries.len() as u16).to_be_bytes());
    for (tag, kind, count, value) in entries {
        out.extend(tag.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(count.to_be_bytes());
        out.extend(value);
    }
    out.extend([0; 4]);
    out.extend(more);
    out
}

#[test]
fn broken_exif_goes_whole_and_its_orientation_stays() {
    let turned = (0x0112, 3, 1, [0, 6, 0, 0]);
    // A directory that is cut off behind the orientation.
    let mut cut = tiff(&[turned, (0x013B, 2, 9, [0; 4])], &[]);
    cut.truncate(8 + 2 + 12 + 5);
    let part = exif::strip(&cut, PRIVATE);
    assert_eq!(part.kept, Some(tiff(&[turned], &[])));
    assert_eq!(names(part.removed), ["unreadable"]);
    // A value outside of the file, one of four gigabytes, and a directory that holds itself.
    for broken in [
        (0x013B, 2, 100, [0, 0, 0xFF, 0]),
        (0x013B, 2, u32::MAX, [0, 0, 0, 8]),
        (0x8298, 5, u32::MAX, [0, 0, 0, 8]),
    ] {
        let part = exif::strip(&tiff(&[turned, broken], &[]), PRIVATE);
        assert_eq!(part.kept, Some(tiff(&[turned], &[])));
        assert_eq!(names(part.removed), ["unreadable"]);
    }
    let itself = tiff(&[turned, (0x8769, 4, 1, [0, 0, 0, 8])], &[]);
    assert_eq!(exif::strip(&itself, PRIVATE).kept, Some(tiff(&[turned], &[])));
    assert_eq!(exif::strip(b"no TIFF", PRIVATE).kept, None);
    // A tag that stays stays only as what it is: an orientation of a million values is none.
    let large = tiff(&[(0x0112, 7, 16, [0, 0, 0, 26])], b"SECRET orientation");
    assert_eq!(exif::strip(&large, PRIVATE).kept, None);
}

#[test]
fn positions_are_counted_only_where_there_are_some() {
    let gps = |more: &[u8]| tiff(&[(0x8825, 4, 1, [0, 0, 0, 26])], more);
    let version = [&[0, 1], &[0, 0, 0, 1, 0, 0, 0, 4, 2, 3, 0, 0][..], &[0; 4]].concat();
    assert_eq!(names(exif::strip(&gps(&version), PRIVATE).removed), ["other"]);
    let north = [&[0, 1], &[0, 1, 0, 2, 0, 0, 0, 2, b'N', 0, 0, 0][..], &[0; 4]].concat();
    assert_eq!(names(exif::strip(&gps(&north), PRIVATE).removed), ["position"]);
    // A comment of blanks says nothing.
    let blank = tiff(&[(0x010E, 2, 4, *b"   \0")], &[]);
    assert_eq!(names(exif::strip(&blank, PRIVATE).removed), ["other"]);
    let comment = tiff(&[(0x010E, 2, 4, *b"Ann\0")], &[]);
    assert_eq!(names(exif::strip(&comment, PRIVATE).removed), ["comment"]);
}

#[test]
fn xmp_that_is_no_xml_goes_whole() {
    let packet = |inside: &str| {
        format!(
            "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\
             <rdf:Description rdf:about='' xmlns:dc='http://purl.org/dc/elements/1.1/'>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>"
        )
    };
    let strip = |text: &str| xmp::strip(&[text.as_bytes()], PRIVATE);
    let kept = strip(&packet("<dc:rights>a &lt; b &#x263A; &amp;</dc:rights>"));
    let text = String::from_utf8(kept.kept.unwrap()).unwrap();
    assert!(
        text.contains("<dc:rights>a &lt; b \u{263A} &amp;</dc:rights>"),
        "{text}"
    );
    assert!(kept.removed.is_empty());
    for broken in [
        packet("<dc:rights>a</dc:right>"),
        packet("<dc:rights>&unknown;</dc:rights>"),
        format!(
            "<!DOCTYPE x [<!ENTITY a 'aaaa'>]>{}",
            packet("<dc:rights>a</dc:rights>")
        ),
        packet("<dc:rights>a</dc:rights>").replace("</x:xmpmeta>", ""),
        "<".repeat(10_000),
    ] {
        let part = strip(&broken);
        assert_eq!(
            (part.kept, names(part.removed)),
            (None, vec!["unreadable"]),
            "{broken:.200}"
        );
    }
    assert_eq!(xmp::strip(&[b"\xff\xfe<\0"], PRIVATE).kept, None);
    // What is within a property that stays does not stay with it.
    let nested = strip(&packet(
        "<dc:creator>Ann<dc:x xmlns:exif='http://ns.adobe.com/exif/1.0/' exif:GPSLatitude='51,0N'>SECRET</dc:x></dc:creator>",
    ));
    assert_eq!(names(nested.removed), ["position", "other"]);
    let text = String::from_utf8(nested.kept.unwrap()).unwrap();
    assert!(
        text.contains("<dc:creator>Ann</dc:creator>") && !text.contains("SECRET"),
        "{text}"
    );
    // Very deep, and a very long value.
    let deep = format!("{}{}", "<dc:x>".repeat(20_000), "</dc:x>".repeat(20_000));
    assert_eq!(names(strip(&packet(&deep)).removed), ["other"]);
    let long = format!("<dc:rights>{}</dc:rights>", "a".repeat(9000));
    assert_eq!(
        (strip(&packet(&long)).kept, names(strip(&packet(&long)).removed)),
        (None, vec!["other"])
    );
}

#[test]
fn the_credit_of_a_file_is_read() {
    let expected = Credit {
        creator: Some("CREDIT Ann & Bob".into()),
        license: Some("https://creativecommons.org/licenses/by/4.0/?CREDIT".into()),
        terms: Some("CREDIT terms".into()),
        notice: Some("CREDIT © <Ann>".into()),
        ..Credit::default()
    };
    for (format, file) in ALL {
        let nothing = Credit::default();
        let expected = if format == "BMP" { &nothing } else { &expected };
        assert_eq!(credit(file), *expected, "{format}");
    }
    // IPTC comes before EXIF, and each alone is enough.
    let exif = tiff(&[(0x013B, 2, 4, *b"Bob\0"), (0x8298, 2, 3, *b"(c)\0")], &[]);
    let read = exif::strip(&exif, PRIVATE).credit;
    assert_eq!(
        (read.creator.as_deref(), read.notice.as_deref()),
        (Some("Bob"), Some("(c)"))
    );
    let iptc = iptc::strip(b"\x1c\x02\x50\0\x03Ann\x1c\x02\x74\0\x04\xa9Ann", PRIVATE).credit;
    assert_eq!(
        (iptc.creator.as_deref(), iptc.notice.as_deref()),
        (Some("Ann"), Some("\u{a9}Ann"))
    );
    let segment = |mark: u8, data: &[u8]| {
        let length = (data.len() as u16 + 2).to_be_bytes();
        [&[0xFF, mark], &length[..], data].concat()
    };
    let records = b"\x1c\x02\x50\0\x03Ann";
    let block = [b"8BIM\x04\x04\0\0\0\0\0\x08", &records[..]].concat();
    let plain = strip(JPEG, FileMetadata::StripAll).unwrap().file;
    // Behind the EXIF that holds the orientation, because the last one counts.
    let at = plain.windows(2).position(|mark| mark == [0xFF, 0xDB]).unwrap();
    let both = [
        &plain[..at],
        &segment(0xE1, &[b"Exif\0\0", &exif[..]].concat()),
        &segment(0xED, &[b"Photoshop 3.0\0", &block[..]].concat()),
        &plain[at..],
    ]
    .concat();
    let read = credit(&both);
    assert_eq!(
        (read.creator.as_deref(), read.notice.as_deref()),
        (Some("Ann"), Some("(c)"))
    );
    assert_eq!(credit(b"text"), Credit::default());
    // What XMP says of rights, field by field.
    let packet = "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\
        <rdf:Description rdf:about='' xmlns:xmpRights='http://ns.adobe.com/xap/1.0/rights/' xmpRights:Marked='True' \
        xmpRights:WebStatement='https://host.example/rights'><xmpRights:Owner><rdf:Bag><rdf:li>Ann</rdf:li><rdf:li>Bob</rdf:li></rdf:Bag>\
        </xmpRights:Owner><xmpRights:UsageTerms><rdf:Alt><rdf:li xml:lang='x-default'>All rights reserved</rdf:li></rdf:Alt></xmpRights:UsageTerms>\
        </rdf:Description></rdf:RDF></x:xmpmeta>";
    let expected = Credit {
        statement: Some("https://host.example/rights".into()),
        terms: Some("All rights reserved".into()),
        owner: Some("Ann, Bob".into()),
        ..Credit::default()
    };
    assert_eq!(xmp::strip(&[packet.as_bytes()], PRIVATE).credit, expected);
}

#[test]
fn what_lies_behind_the_end_of_a_credit_goes() {
    let entry = |tag: u16, kind: u16, value: &[u8]| {
        let at = [0, 0, 0, 26];
        let file = tiff(&[(tag, kind, value.len() as u32, at)], value);
        exif::strip(&file, PRIVATE)
    };
    let artist = entry(0x013B, 2, b"CREDIT Ann\0SECRET former owner\0");
    assert!(holds(artist.kept.as_ref().unwrap(), "CREDIT Ann\0"));
    assert!(!holds(artist.kept.as_ref().unwrap(), "SECRET"));
    assert_eq!(names(artist.removed), ["other"]);
    // A copyright has two parts, the photographer's and the editor's.
    let copyright = entry(0x8298, 2, b"CREDIT Ann\0CREDIT Bob\0SECRET\0");
    let kept = copyright.kept.unwrap();
    assert!(holds(&kept, "CREDIT Ann\0CREDIT Bob\0") && !holds(&kept, "SECRET"));
    let author: Vec<u8> = "CREDIT\0SECRET\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let author = entry(0x9C9D, 1, &author).kept.unwrap();
    assert!(holds(&author, "CREDIT") && !holds(&author, "SECRET"));
    // Padding is nothing to remove.
    let padded = entry(0x013B, 2, b"CREDIT Ann\0\0\0  \0");
    assert_eq!(
        (names(padded.removed), padded.kept.unwrap().len()),
        (vec![], 26 + 16)
    );

    let record = |field: u8, value: &[u8]| {
        let length = (value.len() as u16).to_be_bytes();
        [&[0x1C, 2, field], &length[..], value].concat()
    };
    let iptc = iptc::strip(&record(80, b"CREDIT Ann\0SECRET"), PRIVATE);
    assert_eq!(iptc.kept.unwrap(), record(80, b"CREDIT Ann\0"));
    assert_eq!(names(iptc.removed), ["other"]);
    let resource = |id: u8, data: &[u8]| {
        let length = (data.len() as u32).to_be_bytes();
        [
            b"8BIM\x04",
            &[id, 0, 0][..],
            &length,
            data,
            &[0][..data.len() % 2],
        ]
        .concat()
    };
    for (id, data) in [
        (0x0A, &b"SECRET"[..]),
        (0x0B, b"geo:51.5,0"),
        (0x0B, b"https://host.example/\0SECRET"),
    ] {
        assert_eq!(iptc::strip_resources(&resource(id, data), PRIVATE).kept, None);
    }
    for (id, data) in [(0x0A, &[1][..]), (0x0B, b"https://host.example/")] {
        let kept = iptc::strip_resources(&resource(id, data), PRIVATE).kept;
        assert_eq!(kept, Some(resource(id, data)));
    }
}

#[test]
fn private_addresses_and_languages_of_ones_own_go_from_xmp() {
    let packet = |inside: &str| {
        format!(
            "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\
             <rdf:Description rdf:about='' xmlns:cc='http://creativecommons.org/ns#' xmlns:dc='http://purl.org/dc/elements/1.1/'>\
             {inside}</rdf:Description></rdf:RDF></x:xmpmeta>"
        )
    };
    for address in [
        "geo:51.5,-0.1",
        "file:///home/ann",
        "https://ann:secret@host.example/",
    ] {
        let inside = format!("<cc:attributionURL rdf:resource='{address}'/>");
        let part = xmp::strip(&[packet(&inside).as_bytes()], PRIVATE);
        assert_eq!(
            (part.kept, names(part.removed)),
            (None, vec!["other"]),
            "{address}"
        );
    }
    let inside = "<cc:attributionURL rdf:resource='https://host.example/ann'/>\
                  <dc:rights><rdf:Alt><rdf:li xml:lang='de-AT'>CREDIT</rdf:li><rdf:li xml:lang='x-SECRET'>CREDIT too</rdf:li></rdf:Alt></dc:rights>";
    let part = xmp::strip(&[packet(inside).as_bytes()], PRIVATE);
    let kept = String::from_utf8(part.kept.unwrap()).unwrap();
    assert!(
        kept.contains("https://host.example/ann")
            && kept.contains("xml:lang=\"de-AT\"")
            && kept.contains("CREDIT too")
    );
    assert!(!kept.contains("SECRET"), "{kept}");
}

/// A PNG of 5 x 3 px in these modes, whose compressed rows are followed by `rows` more bytes and whose stream by
/// `behind`.
fn png_of(color: u8, interlaced: u8, bytes_of_rows: usize, rows: &[u8], behind: &[&[u8]]) -> Vec<u8> {
    let chunk = |name: &[u8; 4], data: &[u8]| {
        let mut sum = flate2::Crc::new();
        sum.update(name);
        sum.update(data);
        [
            &(data.len() as u32).to_be_bytes()[..],
            name,
            data,
            &sum.sum().to_be_bytes(),
        ]
        .concat()
    };
    let header = [0, 0, 0, 5, 0, 0, 0, 3, 8, color, 0, 0, interlaced];
    // Each of these values is a filter too.
    let pixels: Vec<u8> = (0..bytes_of_rows).map(|at| at as u8 % 5).collect();
    let mut stream = Vec::new();
    let all = [&pixels[..], rows].concat();
    std::io::Read::read_to_end(
        &mut flate2::read::ZlibEncoder::new(&all[..], flate2::Compression::fast()),
        &mut stream,
    )
    .unwrap();
    let (first, second) = stream.split_at(stream.len() / 2);
    let last = [second, behind.first().copied().unwrap_or_default()].concat();
    let more: Vec<u8> = behind
        .iter()
        .skip(1)
        .flat_map(|data| chunk(b"IDAT", data))
        .collect();
    [
        b"\x89PNG\r\n\x1a\n",
        &chunk(b"IHDR", &header)[..],
        &chunk(b"IDAT", first),
        &chunk(b"IDAT", &last),
        &more,
        &chunk(b"IEND", b""),
    ]
    .concat()
}

#[test]
fn what_lies_behind_the_last_row_of_a_png_goes() {
    // Rows of 5 px in gray; in color with alpha; in gray, in the seven passes of Adam7.
    for (color, interlaced, bytes) in [(0, 0, 3 * 6), (6, 0, 3 * 21), (0, 1, 2 + 2 + 2 + 4 + 2 * 3 + 6)] {
        let plain = png_of(color, interlaced, bytes, b"", &[]);
        let kept = strip(&plain, PRIVATE).unwrap();
        assert!(matches!(kept.file, Cow::Borrowed(_)), "{color} {interlaced}");
        for hidden in [
            png_of(color, interlaced, bytes, b"", &[b"SECRET"]),
            png_of(color, interlaced, bytes, b"", &[b"", b"SECRET"]),
            png_of(color, interlaced, bytes, b"\0SECRET rows", &[]),
            png_of(color, interlaced, bytes, &[7; 100_000], &[]),
        ] {
            let stripped = strip(&hidden, PRIVATE).unwrap();
            assert_eq!(names(stripped.removed), ["thumbnail"]);
            assert!(!holds(&stripped.file, "SECRET"));
            assert!(stripped.file.len() < plain.len() + 40, "{}", stripped.file.len());
            assert_eq!(pixels(&stripped.file).unwrap(), pixels(&plain).unwrap());
            assert!(scan(&stripped.file).unwrap().is_empty());
        }
    }
}

#[test]
fn formats_without_known_metadata_are_refused() {
    for file in [
        &b"\0\0\0\x18ftypheic\0\0\0\0"[..],
        b"II*\0\x08\0\0\0",
        b"",
        b"text",
    ] {
        let error = strip(file, PRIVATE).err().unwrap();
        assert!(error.to_string().contains("JPEG, PNG, WebP, GIF, BMP"), "{error}");
    }
    for (format, file) in ALL {
        let error = strip(&file[..20], PRIVATE).err();
        assert!(error.is_some(), "{format}");
    }
}

#[test]
fn a_bmp_that_announces_colors_it_does_not_need_hides_nothing_among_them() {
    for colors in [1u32, 3_000, u32::MAX] {
        let mut file = BMP.to_vec();
        file[46..50].copy_from_slice(&colors.to_le_bytes());
        let stripped = strip(&file, PRIVATE).unwrap().file;
        assert!(!holds(&stripped, "SECRET"), "{colors}");
        assert_eq!(pixels(&stripped).unwrap(), pixels(BMP).unwrap());
    }
}

#[test]
fn a_bmp_whose_pixels_begin_within_its_header_is_refused() {
    let mut file = BMP.to_vec();
    file[10..14].fill(0);
    assert!(strip(&file, PRIVATE).is_err());
}

#[test]
fn a_png_that_ends_within_the_chunk_behind_its_pixels_is_still_read() {
    let late = PNG.windows(8).position(|window| window == b"tEXtLate").unwrap();
    for length in [late + 4, late + 10] {
        let file = &PNG[..length];
        let stripped = strip(file, PRIVATE).unwrap().file;
        assert_eq!(pixels(&stripped).unwrap(), pixels(file).unwrap());
        assert!(!holds(&stripped, "SECRET") && scan(&stripped).unwrap().is_empty());
    }
}

/// Comparing each name with all before it would take minutes.
#[test]
fn a_million_chunks_of_other_names_take_no_longer_than_their_bytes() {
    let names = (0..500_000_u32).map(u32::to_be_bytes);
    let chunks: Vec<u8> = names.clone().flat_map(|name| [name, [0; 4]].concat()).collect();
    let pixels_at = WEBP.windows(4).position(|name| name == b"VP8 ").unwrap();
    let mut file = [&WEBP[..pixels_at], &chunks, &WEBP[pixels_at..]].concat();
    let length = file.len() as u32 - 8;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    assert!(strip(&file, PRIVATE).unwrap().file.len() < WEBP.len());

    let mut chunks = vec![];
    let repeated = std::iter::repeat_n(*b"gAMA", 500_000);
    names
        .chain(repeated)
        .for_each(|name| png_chunk::chunk(&mut chunks, &name, &[]));
    let end = PNG.windows(4).rposition(|name| name == b"IEND").unwrap() - 4;
    let file = [&PNG[..end], &chunks, &PNG[end..]].concat();
    assert!(strip(&file, PRIVATE).unwrap().file.len() < PNG.len());
}

#[test]
fn a_jpeg_that_decoders_read_differently_is_refused() {
    // EXIF, with a picture in it, behind a mark that has no length.
    let mut file = JPEG.to_vec();
    let exif = file.windows(2).position(|mark| mark == [0xFF, 0xE1]).unwrap();
    file[exif + 1] = 0xD0;
    assert!(strip(&file, PRIVATE).is_err());
}

#[test]
fn files_that_show_something_else_are_refused_also_in_later_frames_deep_samples_and_inks() {
    let gif = |last: u8| {
        let mut file = Vec::new();
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut file);
        let frames = [0, 90, last].map(|red| {
            let color = image::Rgba([red, 1, 2, 255]);
            image::Frame::new(image::RgbaImage::from_pixel(8, 8, color))
        });
        encoder.encode_frames(frames).unwrap();
        drop(encoder);
        file
    };
    let png = |gray: u16| {
        let mut file = std::io::Cursor::new(Vec::new());
        let picture = image::ImageBuffer::from_pixel(8, 8, image::Luma([gray]));
        image::DynamicImage::ImageLuma16(picture)
            .write_to(&mut file, ImageFormat::Png)
            .unwrap();
        file.into_inner()
    };
    for (before, after) in [(gif(180), gif(200)), (png(0x4000), png(0x4001))] {
        assert!(shows_the_same(&before, &before).unwrap());
        assert!(shows_the_same(&before, &after).is_err());
        assert_eq!(pixels(&before), pixels(&after));
    }
    // Black hides the other inks in red, green and blue.
    let inks = include_bytes!("../../fixtures/embedded/small/inks.jpg");
    assert!(shows_the_same(inks, inks).unwrap() && shows_the_same(inks, JPEG).is_err());
}

#[test]
fn a_file_that_does_not_decode_is_stripped_and_not_called_compared() {
    for (format, file) in ALL {
        assert!(strip(file, PRIVATE).unwrap().is_compared, "{format}");
    }
    // Said to be in arithmetic coding, which is not read.
    let clean = strip(JPEG, PRIVATE).unwrap().file;
    let frame = clean.windows(2).position(|mark| mark == [0xFF, 0xC0]).unwrap();
    let frame = &clean[frame..frame + 19];
    let mut file = JPEG.to_vec();
    let frame = file.windows(19).position(|bytes| bytes == frame).unwrap();
    file[frame + 1] = 0xC9;
    let stripped = strip(&file, PRIVATE).unwrap();
    assert!(pixels(&file).is_err() && !stripped.is_compared);
    assert!(!holds(&stripped.file, "SECRET"));
}

/// What holds for any file, however broken.
fn check(file: &[u8]) {
    for level in [PRIVATE, FileMetadata::StripAll] {
        let Ok(stripped) = strip(file, level) else {
            continue;
        };
        // Text in the pixels' own data stays.
        let before = pixels(file);
        if before.is_ok() {
            assert_eq!(pixels(&stripped.file), before);
        }
        let again = strip(&stripped.file, level).unwrap();
        assert_eq!(names(again.removed), Vec::<&str>::new());
        assert!(*again.file == *stripped.file);
        assert!(scan(&stripped.file).unwrap().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn truncated_files_are_stripped_or_refused(which in 0..ALL.len(), length in any::<prop::sample::Index>()) {
        let (_, file) = ALL[which];
        check(&file[..length.index(file.len())]);
    }

    #[test]
    fn changed_files_are_stripped_or_refused(
        which in 0..ALL.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = ALL[which].1.to_vec();
        for (place, value) in changes {
            let place = place.index(file.len());
            file[place] = value;
        }
        check(&file);
    }

    #[test]
    fn files_with_missing_and_doubled_parts_are_stripped_or_refused(
        which in 0..ALL.len(),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        doubled in any::<bool>(),
    ) {
        let file = ALL[which].1;
        let (from, to) = (from.index(file.len()), to.index(file.len()));
        let (from, to) = (from.min(to), from.max(to));
        let middle: &[u8] = if doubled { &file[from..to] } else { &[] };
        check(&[&file[..if doubled { to } else { from }], middle, &file[to..]].concat());
    }
}
