//! Letters of 5 x 7 dots: capitals, digits and the marks that labels have.

/// Dots from one letter's left edge to the next one's.
pub(super) const ADVANCE: u32 = 6;
/// Dots of a letter from its upper to its lower edge.
pub(super) const HEIGHT: u32 = 7;

/// Whether dot `x`, `y` of a letter is ink.
pub(super) fn is_ink(letter: char, x: u32, y: u32) -> bool {
    let rows = rows(letter.to_ascii_uppercase());
    let row = rows.get(y as usize).copied().unwrap_or(0);
    x < 5 && row >> (4 - x) & 1 == 1
}

/// The rows from above; the highest of five bits is the left dot.
fn rows(letter: char) -> [u8; 7] {
    match letter {
        'A' => [14, 17, 17, 31, 17, 17, 17],
        'B' => [30, 17, 17, 30, 17, 17, 30],
        'C' => [14, 17, 16, 16, 16, 17, 14],
        'D' => [30, 17, 17, 17, 17, 17, 30],
        'E' => [31, 16, 16, 30, 16, 16, 31],
        'F' => [31, 16, 16, 30, 16, 16, 16],
        'G' => [14, 17, 16, 23, 17, 17, 14],
        'H' => [17, 17, 17, 31, 17, 17, 17],
        'I' => [14, 4, 4, 4, 4, 4, 14],
        'J' => [1, 1, 1, 1, 1, 17, 14],
        'K' => [17, 18, 20, 24, 20, 18, 17],
        'L' => [16, 16, 16, 16, 16, 16, 31],
        'M' => [17, 27, 21, 21, 17, 17, 17],
        'N' => [17, 25, 21, 19, 17, 17, 17],
        'O' => [14, 17, 17, 17, 17, 17, 14],
        'P' => [30, 17, 17, 30, 16, 16, 16],
        'Q' => [14, 17, 17, 17, 21, 18, 13],
        'R' => [30, 17, 17, 30, 20, 18, 17],
        'S' => [15, 16, 16, 14, 1, 1, 30],
        'T' => [31, 4, 4, 4, 4, 4, 4],
        'U' => [17, 17, 17, 17, 17, 17, 14],
        'V' => [17, 17, 17, 17, 17, 10, 4],
        'W' => [17, 17, 17, 21, 21, 27, 17],
        'X' => [17, 17, 10, 4, 10, 17, 17],
        'Y' => [17, 17, 10, 4, 4, 4, 4],
        'Z' => [31, 1, 2, 4, 8, 16, 31],
        '0' => [14, 17, 19, 21, 25, 17, 14],
        '1' => [4, 12, 4, 4, 4, 4, 14],
        '2' => [14, 17, 1, 6, 8, 16, 31],
        '3' => [31, 1, 2, 6, 1, 17, 14],
        '4' => [2, 6, 10, 18, 31, 2, 2],
        '5' => [31, 16, 30, 1, 1, 17, 14],
        '6' => [6, 8, 16, 30, 17, 17, 14],
        '7' => [31, 1, 2, 4, 8, 8, 8],
        '8' => [14, 17, 17, 14, 17, 17, 14],
        '9' => [14, 17, 17, 15, 1, 2, 12],
        ' ' => [0; 7],
        '.' => [0, 0, 0, 0, 0, 12, 12],
        ',' => [0, 0, 0, 0, 12, 4, 8],
        ':' => [0, 12, 12, 0, 12, 12, 0],
        '-' => [0, 0, 0, 31, 0, 0, 0],
        '_' => [0, 0, 0, 0, 0, 0, 31],
        '+' => [0, 4, 4, 31, 4, 4, 0],
        '/' => [1, 1, 2, 4, 8, 16, 16],
        '%' => [24, 25, 2, 4, 8, 19, 3],
        '(' => [2, 4, 8, 8, 8, 4, 2],
        ')' => [8, 4, 2, 2, 2, 4, 8],
        '\'' => [4, 4, 8, 0, 0, 0, 0],
        _ => [14, 17, 1, 2, 4, 0, 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_stand_upright_and_no_two_are_alike() {
        let row = |letter, y| -> String {
            (0..ADVANCE)
                .map(|x| if is_ink(letter, x, y) { '#' } else { '.' })
                .collect()
        };
        assert_eq!(row('l', 0), "#.....");
        assert_eq!(row('L', 6), "#####.");
        assert_eq!(row('7', 1), "....#.");
        assert_eq!(row('L', 7), "......");
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:-_+/%()'?";
        let distinct: std::collections::HashSet<[u8; 7]> = letters.chars().map(rows).collect();
        assert_eq!(distinct.len(), letters.len());
        assert_eq!(rows('é'), rows('?'));
    }
}
