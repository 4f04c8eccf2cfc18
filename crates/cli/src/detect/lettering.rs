//! Short texts drawn into a picture, in letters of 5 x 7 px.

use data::RgbImage;

/// Width of a letter and the space behind it, px.
const STEP: usize = 6;
/// Height of a letter and the space around it, px.
const HEIGHT: usize = 9;

/// Letters, digits and signs that a name or score may have; seven rows each, five bits a row, the left one highest.
const LETTERS: &[(char, [u8; 7])] = &[
    ('A', [14, 17, 17, 31, 17, 17, 17]),
    ('B', [30, 17, 17, 30, 17, 17, 30]),
    ('C', [14, 17, 16, 16, 16, 17, 14]),
    ('D', [30, 17, 17, 17, 17, 17, 30]),
    ('E', [31, 16, 16, 30, 16, 16, 31]),
    ('F', [31, 16, 16, 30, 16, 16, 16]),
    ('G', [14, 17, 16, 23, 17, 17, 15]),
    ('H', [17, 17, 17, 31, 17, 17, 17]),
    ('I', [14, 4, 4, 4, 4, 4, 14]),
    ('J', [7, 2, 2, 2, 2, 18, 12]),
    ('K', [17, 18, 20, 24, 20, 18, 17]),
    ('L', [16, 16, 16, 16, 16, 16, 31]),
    ('M', [17, 27, 21, 21, 17, 17, 17]),
    ('N', [17, 25, 21, 21, 19, 17, 17]),
    ('O', [14, 17, 17, 17, 17, 17, 14]),
    ('P', [30, 17, 17, 30, 16, 16, 16]),
    ('Q', [14, 17, 17, 17, 21, 18, 13]),
    ('R', [30, 17, 17, 30, 20, 18, 17]),
    ('S', [15, 16, 16, 14, 1, 1, 30]),
    ('T', [31, 4, 4, 4, 4, 4, 4]),
    ('U', [17, 17, 17, 17, 17, 17, 14]),
    ('V', [17, 17, 17, 17, 17, 10, 4]),
    ('W', [17, 17, 17, 21, 21, 27, 17]),
    ('X', [17, 17, 10, 4, 10, 17, 17]),
    ('Y', [17, 17, 10, 4, 4, 4, 4]),
    ('Z', [31, 1, 2, 4, 8, 16, 31]),
    ('0', [14, 17, 19, 21, 25, 17, 14]),
    ('1', [4, 12, 4, 4, 4, 4, 14]),
    ('2', [14, 17, 1, 6, 8, 16, 31]),
    ('3', [30, 1, 1, 14, 1, 1, 30]),
    ('4', [2, 6, 10, 18, 31, 2, 2]),
    ('5', [31, 16, 30, 1, 1, 17, 14]),
    ('6', [14, 16, 16, 30, 17, 17, 14]),
    ('7', [31, 1, 2, 4, 8, 8, 8]),
    ('8', [14, 17, 17, 14, 17, 17, 14]),
    ('9', [14, 17, 17, 15, 1, 1, 14]),
    (' ', [0; 7]),
    ('.', [0, 0, 0, 0, 0, 12, 12]),
    ('-', [0, 0, 0, 14, 0, 0, 0]),
    ('_', [0, 0, 0, 0, 0, 0, 31]),
    ('/', [1, 1, 2, 4, 8, 16, 16]),
];
/// A letter that is none of these.
const OTHER: [u8; 7] = [31, 17, 17, 17, 17, 17, 31];

/// Writes a text in white capitals on a ground of `color`, above the place `[x, y]`, px, or as near to it as the
/// picture has room; what does not fit is cut.
pub(super) fn letter(image: &mut RgbImage, text: &str, [x, y]: [f32; 2], color: [u8; 3]) {
    let (wide, high) = (image.width as usize, image.height as usize);
    let width = (text.chars().count() * STEP + 1).min(wide);
    let left = (x.max(0.0) as usize).min(wide - width);
    let top = (y.max(0.0) as usize)
        .saturating_sub(HEIGHT)
        .min(high.saturating_sub(HEIGHT));
    let mut put = |row: usize, column: usize, color: [u8; 3]| {
        if row < high && column < left + width {
            let at = (row * wide + column) * 3;
            image.pixels[at..at + 3].copy_from_slice(&color);
        }
    };
    for row in 0..HEIGHT {
        for column in 0..width {
            put(top + row, left + column, color);
        }
    }
    for (place, sign) in text.chars().enumerate() {
        let sign = sign.to_ascii_uppercase();
        let known = LETTERS.iter().find(|(letter, _)| *letter == sign);
        let rows = known.map_or(OTHER, |(_, rows)| *rows);
        for (row, bits) in rows.into_iter().enumerate() {
            for column in (0..5).filter(|column| bits & (16 >> column) != 0) {
                put(top + 1 + row, left + 1 + place * STEP + column, [255; 3]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lettered(width: u32, height: u32, text: &str, place: [f32; 2]) -> Vec<String> {
        let mut image = RgbImage {
            width,
            height,
            pixels: vec![0; (width * height * 3) as usize],
        };
        letter(&mut image, text, place, [9, 9, 9]);
        let sign = |pixel: &[u8]| match pixel[0] {
            0 => ' ',
            9 => '.',
            _ => '#',
        };
        let rows = image.pixels.chunks(width as usize * 3);
        rows.map(|row| row.chunks(3).map(sign).collect()).collect()
    }

    #[test]
    fn a_letter_stands_above_its_place() {
        let picture = lettered(9, 12, "l", [1.0, 10.0]);
        assert_eq!(
            picture,
            [
                "         ",
                " ....... ",
                " .#..... ",
                " .#..... ",
                " .#..... ",
                " .#..... ",
                " .#..... ",
                " .#..... ",
                " .#####. ",
                " ....... ",
                "         ",
                "         "
            ]
        );
    }

    #[test]
    fn texts_stay_within_the_picture() {
        for place in [
            [0.0, 0.0],
            [300.0, 300.0],
            [-9.0, -9.0],
            [f32::NAN, f32::INFINITY],
        ] {
            assert_eq!(lettered(20, 10, "é9", place).len(), 10);
            assert_eq!(lettered(3, 2, "long", place).len(), 2);
        }
    }
}
